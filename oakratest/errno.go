//go:build !windows

package oakratest

import "syscall"

// The errors of TCP connections on this system.
const (
	errReset   = syscall.ECONNRESET
	errRefused = syscall.ECONNREFUSED
	errBroken  = syscall.EPIPE // for a write after the other end has closed
)

// syscallName returns the system call that package net names in an error of op.
func syscallName(op string) string { return op }
