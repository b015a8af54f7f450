//go:build !unix

package webtest

import "errors"

type cluster struct{ dir string }

func postgresMissing() string       { return "these tests start it on Unix only" }
func newCluster() (*cluster, error) { return nil, errors.New(postgresMissing()) }
func (*cluster) dsn() string        { return "" }
func (*cluster) start() error       { return nil }
func (*cluster) stop() error        { return nil }
func (*cluster) remove()            {}
