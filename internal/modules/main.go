// Command modules tidies, tests and releases the modules of this repository. Run it in
// the root of the repository:
//
//	go run ./internal/modules tidy     # go mod tidy in every module
//	go run ./internal/modules test     # build, test and install every module
//	go run ./internal/modules api      # compare the API with that of the last release
//	go run ./internal/modules notes    # print what the changelog says of the version
//	go run ./internal/modules tag      # tag the current commit with the version of each module
//
// The modules require each other at the version that [oakra.Version] names, which
// no proxy has before its release. go.work is enough to build and test them
// together. Everything else, such as go mod tidy, go install and GOWORK=off, needs
// the published modules. For tidy, test and api this command zips the modules of the
// working tree into a directory that the go command reads as a module proxy, and uses a
// module cache of its own, so that no unpublished version reaches the caller's.
//
// The modules are all directories with a go.mod; there is no list of them.
package main

import (
	"context"
	"errors"
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
	if err != nil {
		return err
	}
	if len(args) == 1 {
		switch args[0] {
		case "tidy":
			return tidy(ctx, t)
		case "test":
			return test(ctx, t)
		case "api":
			return api(ctx, os.Stdout, t)
		case "notes":
			notes, err := t.notes()
			if err != nil {
				return err
			}
			fmt.Println(notes)
			return nil
		case "tag":
			return tag(ctx, t)
		}
	}
	return errors.New("usage: go run ./internal/modules tidy|test|api|notes|tag")
}
