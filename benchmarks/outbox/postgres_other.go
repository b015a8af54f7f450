//go:build !unix

package main

import (
	"context"
	"errors"
)

type cluster struct{}

var errNotUnix = errors.New(postgresMissing())

func postgresMissing() string { return "it is started on Unix only" }

func newCluster(context.Context, string) (*cluster, error) { return nil, errNotUnix }

func (*cluster) stop(context.Context) {}

func (*cluster) dsn(string) string { return "" }

func (*cluster) exec(context.Context, string) error { return errNotUnix }
