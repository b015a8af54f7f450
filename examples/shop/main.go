// Command shop sells through the outbox while everything around it fails, and shows
// that its orders and the stock agree in the end.
//
//	go run ./examples/shop                                   # on a SQLite file
//	DATABASE_URL=postgres://… go run ./examples/shop         # on PostgreSQL
//
// The program starts a fake Oakra that fails, and itself once more as the shop
// (shop.go and serve.go). It buys there as customers do, kills the shop as kill -9
// does, and starts it again.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

// A request may take requestTimeout, and land until grace after that. The fake
// Oakra applies some later, so that they count twice until they are taken back.
const (
	requestTimeout = time.Second
	grace          = time.Second
	late           = 2500 * time.Millisecond
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if os.Getenv("SHOP_DATABASE") != "" { // this is the shop itself
		exit(serve(untilClosed(ctx, os.Stdin), os.Stdout))
	}
	c := config{database: os.Getenv("DATABASE_URL")}
	flag.DurationVar(&c.length, "for", 20*time.Second, "how long customers buy")
	flag.IntVar(&c.kills, "kills", 4, "how often the shop is killed")
	flag.Uint64Var(&c.seed, "seed", 1, "which requests fail, and what is bought")
	flag.BoolVar(&c.keep, "keep", false, "keep the database, to look into it")
	flag.Parse()
	exit(demonstrate(ctx, c, os.Stdout))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// untilClosed returns a context that ends when the other end of a pipe is closed:
// the shop does not outlive the program that started it.
func untilClosed(ctx context.Context, pipe *os.File) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		_, _ = pipe.Read(make([]byte, 1))
	}()
	return ctx
}
