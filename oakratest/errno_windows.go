package oakratest

import "syscall"

// The errors of TCP connections on this system. Those of Unix are in package syscall, but
// no connection returns them.
const (
	errReset   = syscall.WSAECONNRESET
	errRefused = syscall.Errno(10061) // WSAECONNREFUSED
	errBroken  = syscall.WSAECONNABORTED
)

// syscallName returns the system call that package net names in an error of op.
func syscallName(op string) string {
	return map[string]string{"connect": "connectex", "read": "wsarecv", "write": "wsasend"}[op]
}
