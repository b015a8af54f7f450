package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/oakra/oakra-go/outbox"
	"github.com/oakra/oakra-go/outbox/outboxweb"
)

type outboxUICommand struct {
	Addr  string `default:"127.0.0.1:8481" help:"Address to listen at, of this computer only (default ${default})."`
	Write bool   `help:"Permit decisions on parked changes, and resuming, which needs the app key."`
	By    string `placeholder:"NAME" help:"Who decides; needed with --write."`
}

func (c *outboxUICommand) Run(ctx context.Context, a *app) error {
	switch {
	case c.Write && strings.TrimSpace(c.By) == "":
		return plain("--write needs --by NAME: who decides?")
	case !c.Write && c.By != "":
		return plain("--by is for decisions: add --write, or leave it out")
	}
	if c.Write && a.getenv(keyVariable) != "" { // without a key it cannot resume
		return a.dispatching(ctx, outbox.Options{}, func(b *box, _ outbox.Status) error { return c.serve(ctx, a, b) })
	}
	return a.withOutbox(ctx, nil, outbox.Options{}, func(b *box) error { return c.serve(ctx, a, b) })
}

// serve serves the pages until ctx ends.
func (c *outboxUICommand) serve(ctx context.Context, a *app, b *box) error {
	listener, err := listenHere(c.Addr)
	if err != nil {
		return err
	}
	// Other people may use this computer too. The path, which they cannot guess, keeps
	// them out.
	prefix := "/" + strings.ToLower(rand.Text()) + "/"
	pages := outboxweb.Handler(b.Outbox, outboxweb.Options{AllowWrites: c.Write, User: func(*http.Request) string { return c.By }})
	mux := http.NewServeMux()
	mux.Handle(prefix, pages)
	server := &http.Server{Handler: onlyHere(listener.Addr(), mux), ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	release := context.AfterFunc(ctx, func() {
		shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		stopped <- server.Shutdown(shutdown)
	})
	defer release()
	address := "http://" + listener.Addr().String() + prefix
	if a.flags.JSON {
		err = a.writeJSON(map[string]any{"url": address, "write": c.Write})
	} else {
		_, err = fmt.Fprintf(a.stdout, "The pages of the outbox are at %s\nCtrl-C ends it.\n", address)
	}
	if err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// listenHere listens at an address that no other computer reaches.
func listenHere(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, plain("--addr: %v", err)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, plain("--addr: %s is not an address of this computer only, such as 127.0.0.1: there is no login", address)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, plain("%v; choose another with --addr", err)
	}
	return listener, nil
}

// onlyHere refuses requests whose Host does not name this computer. Another site can
// make its own name resolve to this address (DNS rebinding), and the browser would then
// treat these pages as part of that site.
func onlyHere(at net.Addr, next http.Handler) http.Handler {
	_, port, _ := net.SplitHostPort(at.String())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Host {
		case at.String(), net.JoinHostPort("localhost", port):
			next.ServeHTTP(w, r)
		default:
			http.Error(w, "This server is for the browser of this computer only.", http.StatusForbidden)
		}
	})
}
