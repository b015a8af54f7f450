//go:build !unix

package storm_test

import "testing"

func postgresMissing() string { return "it is started on Unix only" }

func postgresDSN(testing.TB) string { panic(postgresMissing()) }

func postgresNamed(string) string { panic(postgresMissing()) }
