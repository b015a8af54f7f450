// Command stockctl reads and writes stock records, and cancels and ships sales, from
// a terminal. See README.md, or try it with --demo, which needs neither an app key nor
// a network.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	cut := make(chan struct{})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		stop()
		<-signals
		signal.Stop(signals) // a third signal ends the program at once
		close(cut)
	}()
	os.Exit(run(ctx, process{
		args:       os.Args[1:],
		stdin:      os.Stdin,
		stdout:     os.Stdout,
		stderr:     os.Stderr,
		getenv:     os.Getenv,
		isTerminal: isTerminal,
		cut:        cut,
	}))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
