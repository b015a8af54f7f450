package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/outbox"
)

// The witnesses of the outbox. Nothing else may change them.
var (
	head = oakra.StockKey{SKU: "outbox-head", LocationID: warehouse}
	tail = oakra.StockKey{SKU: "outbox-tail", LocationID: warehouse}
)

// openDatabase opens a PostgreSQL URL, or a SQLite file with the settings that the
// outbox requires.
func openDatabase(name string) (*sql.DB, error) {
	if strings.HasPrefix(name, "postgres://") || strings.HasPrefix(name, "postgresql://") {
		return sql.Open("pgx", name)
	}
	return sql.Open("sqlite", "file:"+name+
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)&_txlock=immediate")
}

// serve runs the shop until ctx ends. It takes its settings from the environment,
// and prints the address at which it listens.
func serve(ctx context.Context, stdout io.Writer) error {
	db, err := openDatabase(os.Getenv("SHOP_DATABASE"))
	if err != nil {
		return err
	}
	defer db.Close()
	if err := createTable(ctx, db); err != nil {
		return err
	}
	client, err := oakra.NewClient(os.Getenv("OAKRA_APP_KEY"), oakra.WithBaseURL(os.Getenv("OAKRA_BASE_URL")))
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	box, err := outbox.New(ctx, db, client.Stock, outbox.Options{
		Witnesses: [2]oakra.StockKey{head, tail},
		Logger:    logger,
		OnHalt:    func(reason string) { logger.Error("call a person: the outbox halted", "reason", reason) },
		OnParked:  func(e outbox.Entry) { logger.Error("ask a person about a change", "id", e.ID, "reason", e.Reason) },

		// A real shop leaves these at their defaults. They are short here, since
		// the whole demonstration takes half a minute.
		RequestTimeout: requestTimeout,
		Grace:          grace,
		Lease:          2 * time.Second,
	})
	if err != nil {
		return err
	}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: (&shop{db: db, outbox: box, password: os.Getenv("SHOP_STAFF_PASSWORD")}).handler(), ReadHeaderTimeout: 10 * time.Second}
	dispatched, served := make(chan error, 1), make(chan error, 1)
	go func() { dispatched <- box.Run(ctx) }()
	go func() { served <- server.Serve(listener) }()
	fmt.Fprintf(stdout, "http://%s\n", listener.Addr())

	// The last orders are placed before the database is closed; what they leave
	// pending is sent at the next start.
	select {
	case err = <-served:
		return err
	case err = <-dispatched:
	}
	shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if stopped := server.Shutdown(shutdown); err == nil {
		err = stopped
	}
	return err
}
