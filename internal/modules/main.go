// Command modules tidies and tests the modules of this repository as if their next
// version were published. Run it in the root of the repository:
//
//	go run ./internal/modules tidy    # go mod tidy in every module
//	go run ./internal/modules test    # build, test and install every module
//
// The modules require each other at the version that [oakra.Version] names, which
// no proxy has before its release. go.work is enough to build and test them
// together. Everything else, such as go mod tidy, go install and GOWORK=off, needs
// the published modules. This command zips the modules of the working tree into a
// directory that the go command reads as a module proxy, and uses a module cache of
// its own, so that no unpublished version reaches the cache of the caller.
//
// The modules are all directories with a go.mod; there is no list of them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/oakra/oakra-go"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "modules:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	t, err := load(".", "v"+oakra.Version)
	switch {
	case err != nil:
		return err
	case len(args) == 1 && args[0] == "tidy":
		return tidy(ctx, t)
	case len(args) == 1 && args[0] == "test":
		return test(ctx, t)
	}
	return fmt.Errorf("usage: go run ./internal/modules tidy|test")
}
