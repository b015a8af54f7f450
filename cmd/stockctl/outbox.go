package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/outbox"
)

const dbVariable = "OAKRA_OUTBOX_DB"

type outboxCommand struct {
	DB   string `name:"db" placeholder:"sqlite:FILE|postgres://…" help:"Database of the outbox. If left out, the environment variable OAKRA_OUTBOX_DB names it, which hides a password in it."`
	Name string `placeholder:"NAME" help:"Account, as in the shop's Options.Name (default \"default\")."`

	Status  outboxStatusCommand  `cmd:"" help:"Show how it is doing. The exit code is 2 while it is halted."`
	List    outboxListCommand    `cmd:"" help:"List changes, newest first."`
	Show    outboxShowCommand    `cmd:"" help:"Show changes and what happened to them."`
	Resolve outboxResolveCommand `cmd:"" help:"Decide on parked changes."`
	Resume  outboxResumeCommand  `cmd:"" help:"Go on after a halt."`
	Drain   outboxDrainCommand   `cmd:"" help:"Dispatch until nothing is pending."`
	UI      outboxUICommand      `cmd:"" name:"ui" help:"Serve its pages to a browser on this computer."`
	Check   outboxCheckCommand   `cmd:"" help:"Try two witnesses, before an outbox uses them."`
}

// box is an outbox in a shop's database.
type box struct {
	*outbox.Outbox
	db   *sql.DB
	name string
}

func (b *box) close() { _ = b.db.Close() }

// withOutbox opens the outbox that the flags name, and calls use with it. The argument
// stock is nil if nothing is dispatched.
func (a *app) withOutbox(ctx context.Context, stock outbox.Stock, o outbox.Options, use func(b *box) error) error {
	b, err := a.openOutbox(ctx, stock, o)
	if err != nil {
		return err
	}
	defer b.close()
	return outboxFailure(use(b))
}

// openOutbox opens the outbox that the flags name. It creates nothing: neither a
// file, nor tables, nor an account.
func (a *app) openOutbox(ctx context.Context, stock outbox.Stock, o outbox.Options) (*box, error) {
	db, err := openDatabase(cmp.Or(a.flags.Outbox.DB, a.getenv(dbVariable)))
	if err != nil {
		return nil, err
	}
	b := &box{db: db, name: cmp.Or(a.flags.Outbox.Name, "default")}
	witnesses, err := b.witnesses(ctx)
	if err == nil {
		o.Name, o.Witnesses, o.NoMigrate = b.name, witnesses, true
		if a.flags.Verbose {
			o.Logger = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		b.Outbox, err = outbox.New(ctx, db, stock, o)
	}
	if err != nil {
		b.close()
		return nil, plain("%s", outboxReason(err))
	}
	return b, nil
}

func openDatabase(name string) (*sql.DB, error) {
	file, isFile := strings.CutPrefix(name, "sqlite:")
	switch {
	case name == "":
		return nil, plain("which database? --db sqlite:FILE, --db postgres://…, or the environment variable %s", dbVariable)
	case strings.HasPrefix(name, "postgres://"), strings.HasPrefix(name, "postgresql://"):
		db, err := sql.Open("pgx", name)
		if err != nil {
			return nil, plain("--db: %v", err)
		}
		return db, nil
	case !isFile:
		return nil, plain("--db must begin with sqlite: or postgres://")
	}
	if _, err := os.Stat(file); err != nil {
		return nil, plain("--db: %v", err)
	}
	return sql.Open("sqlite", "file:"+url.PathEscape(file)+"?_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)&_txlock=immediate")
}

// witnesses returns the witnesses that the shop named. The program does not ask for
// them, because wrong ones would replace the shop's.
func (b *box) witnesses(ctx context.Context) (w [2]oakra.StockKey, err error) {
	rows, err := b.db.QueryContext(ctx, "SELECT name, head_sku, head_location, tail_sku, tail_location FROM oakra_outbox_account ORDER BY name")
	if err != nil {
		return w, fmt.Errorf("the database has no outbox, or cannot be read: %w", err)
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		var head, tail oakra.StockKey
		if err := rows.Scan(&name, &head.SKU, &head.LocationID, &tail.SKU, &tail.LocationID); err != nil {
			return w, err
		}
		names = append(names, name)
		if name == b.name {
			w = [2]oakra.StockKey{head, tail}
		}
	}
	if err := rows.Err(); err != nil {
		return w, err
	}
	if slices.Contains(names, b.name) {
		return w, nil
	}
	var added bool // an account without witnesses has no row before its first dispatcher
	if err := b.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM oakra_outbox_change WHERE name = $1)", b.name).Scan(&added); err != nil {
		return w, err
	}
	if !added {
		return w, fmt.Errorf("the outbox has no account %q, only %q: give --name", b.name, names)
	}
	return w, nil
}

// outboxReason returns the text of an error without the name of the package.
func outboxReason(err error) string { return strings.TrimPrefix(err.Error(), "outbox: ") }

// outboxFailure returns the failure of a command on an outbox.
func outboxFailure(err error) error {
	var f *failure
	var e *oakra.Error
	switch {
	case err == nil, errors.As(err, &f), errors.As(err, &e):
		return err
	case errors.Is(err, outbox.ErrUnknownID), errors.Is(err, outbox.ErrNotParked):
		return &failure{code: exitRejected, message: outboxReason(err), next: "nothing was resolved: correct what is named above"}
	case errors.Is(err, outbox.ErrHalted):
		return &failure{code: exitRejected, message: outboxReason(err), next: "find out what happened, then stockctl outbox resume"}
	case errors.Is(err, context.Canceled):
		return errStopped
	}
	return plain("%s", outboxReason(err))
}

type outboxStatusCommand struct{}

func (c *outboxStatusCommand) Run(ctx context.Context, a *app) error {
	return a.withOutbox(ctx, nil, outbox.Options{}, func(b *box) error {
		s, err := b.Status(ctx)
		if err != nil {
			return err
		}
		if err := a.printStatus(b.name, s); err != nil {
			return err
		}
		if s.Halted != "" {
			return fmt.Errorf("%w: %s", outbox.ErrHalted, s.Halted)
		}
		return nil
	})
}

// statusJSON is an outbox.Status as JSON.
type statusJSON struct {
	Account       string     `json:"account"`
	Halted        string     `json:"halted"`
	HaltedAt      *time.Time `json:"halted_at"`
	Pending       int64      `json:"pending"`
	OldestSeconds float64    `json:"oldest_pending_seconds"`
	Parked        int64      `json:"parked"`
	OpenAttempts  int64      `json:"open_attempts"`
	Leader        string     `json:"leader"`
	LastSettled   *time.Time `json:"last_settled"`
	BatchSize     int        `json:"batch_size"`
	Requests      int64      `json:"requests"`
	Unknown       int64      `json:"unknown"`
	Compensated   int64      `json:"compensated"`
	Rejected      int64      `json:"rejected"`
	Warnings      []string   `json:"warnings"`
}

func (a *app) printStatus(name string, s outbox.Status) error {
	if a.flags.JSON {
		return a.printJSON(statusJSON{
			Account: name, Halted: s.Halted, HaltedAt: instantOf(s.HaltedAt), Pending: s.Pending, OldestSeconds: s.OldestPending.Seconds(), Parked: s.Parked,
			OpenAttempts: s.OpenAttempts, Leader: s.Leader, LastSettled: instantOf(s.LastSettled), BatchSize: s.BatchSize,
			Requests: s.Requests, Unknown: s.Unknown, Compensated: s.Compensated, Rejected: s.Rejected,
			Warnings: append([]string{}, s.Warnings...),
		})
	}
	var t table
	t.header = []string{"account", name}
	switch {
	case s.Halted != "":
		t.add("halted", s.Halted)
		t.add("halted at", when(s.HaltedAt))
	case s.Leader != "":
		t.add("dispatched by", s.Leader)
	default:
		t.add("dispatched by", "no process")
	}
	pending := number(s.Pending)
	if s.Pending > 0 {
		pending += fmt.Sprintf(", the oldest for %v", s.OldestPending.Round(time.Second))
	}
	t.add("pending", pending)
	t.add("parked", number(s.Parked))
	t.add("open attempts", number(s.OpenAttempts))
	t.add("last landing", when(s.LastSettled))
	t.add("requests", fmt.Sprintf("%d, with %d unknown outcomes, %d taken back, %d rejected", s.Requests, s.Unknown, s.Compensated, s.Rejected))
	t.add("records a request", number(int64(s.BatchSize)))
	for _, warning := range s.Warnings {
		t.add("warning", warning)
	}
	return t.write(a.stdout)
}

// when formats a time for a person.
func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format(time.DateTime)
}

// instantOf returns a time for JSON, or nil if there is none.
func instantOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

type outboxListCommand struct {
	State    string `enum:",pending,sent,applied,parked,dropped" default:"" placeholder:"STATE" help:"Only changes that are pending, sent, applied, parked or dropped."`
	SKU      string `name:"sku" placeholder:"SKU" help:"Only changes of this SKU; needs --state pending or parked."`
	Location string `placeholder:"CODE" help:"Only changes at this location; needs --state pending or parked."`
	Limit    int    `default:"100" help:"How many, at most (default ${default})."`
	Before   int64  `placeholder:"SEQ" help:"Continue a list: only changes before this number."`
}

func (c *outboxListCommand) Run(ctx context.Context, a *app) error {
	if c.Limit <= 0 {
		return plain("--limit must be positive")
	}
	filter := outbox.Filter{State: outbox.State(c.State), SKU: c.SKU, LocationID: c.Location, Limit: c.Limit, Before: c.Before}
	return a.withOutbox(ctx, nil, outbox.Options{}, func(b *box) error {
		entries, err := b.List(ctx, filter)
		if err != nil {
			return err
		}
		if len(entries) == c.Limit {
			a.note(fmt.Sprintf("there may be more: --before %d", entries[len(entries)-1].Seq))
		}
		return a.printEntries(entries)
	})
}

// entryJSON is an outbox.Entry as JSON.
type entryJSON struct {
	Seq            int64        `json:"seq"`
	ID             string       `json:"id"`
	State          outbox.State `json:"state"`
	SKU            string       `json:"sku"`
	LocationID     string       `json:"location_id"`
	QuantityChange int64        `json:"quantity_change"`
	Reason         string       `json:"reason"`
	Added          time.Time    `json:"added"`
	Settled        *time.Time   `json:"settled"`
	History        []eventJSON  `json:"history,omitempty"`
}

type eventJSON struct {
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Action string    `json:"action"`
	Note   string    `json:"note"`
}

func jsonOf(e outbox.Entry) entryJSON {
	return entryJSON{
		Seq: e.Seq, ID: e.ID, State: e.State, SKU: e.SKU, LocationID: e.LocationID, QuantityChange: e.QuantityChange,
		Reason: e.Reason, Added: e.Added.UTC(), Settled: instantOf(e.Settled),
	}
}

func (a *app) printEntries(entries []outbox.Entry) error {
	if a.flags.JSON {
		all := []entryJSON{}
		for _, e := range entries {
			all = append(all, jsonOf(e))
		}
		return a.printJSON(all)
	}
	if len(entries) == 0 {
		return nil
	}
	return entryTable(entries).write(a.stdout)
}

func entryTable(entries []outbox.Entry) *table {
	t := &table{header: []string{"ID", "STATE", "LOCATION", "SKU", "CHANGE", "ADDED", "REASON"}}
	for _, e := range entries {
		t.add(e.ID, string(e.State), e.LocationID, e.SKU, signed(e.QuantityChange), when(e.Added), e.Reason)
	}
	return t
}

type outboxShowCommand struct {
	IDs []string `arg:"" name:"id" help:"IDs of changes."`
}

func (c *outboxShowCommand) Run(ctx context.Context, a *app) error {
	return a.withOutbox(ctx, nil, outbox.Options{}, func(b *box) error {
		entries, err := b.find(ctx, c.IDs)
		if err != nil {
			return err
		}
		var all []entryJSON
		for _, e := range entries {
			shown := jsonOf(e)
			events, err := b.History(ctx, e.ID)
			if err != nil {
				return err
			}
			for _, e := range events {
				shown.History = append(shown.History, eventJSON{e.At.UTC(), e.By, e.Action, e.Note})
			}
			all = append(all, shown)
		}
		if a.flags.JSON {
			return a.printJSON(all)
		}
		for i, e := range all {
			if i > 0 {
				fmt.Fprintln(a.stdout)
			}
			if err := entryTable(entries[i : i+1]).write(a.stdout); err != nil {
				return err
			}
			t := table{header: []string{"AT", "EVENT", "BY", "NOTE"}}
			for _, event := range e.History {
				t.add(when(event.At), event.Action, event.By, event.Note)
			}
			if err := t.write(a.stdout); err != nil {
				return err
			}
		}
		return nil
	})
}

// find returns the changes, or an error if one of them does not exist.
func (b *box) find(ctx context.Context, ids []string) ([]outbox.Entry, error) {
	entries, err := b.Find(ctx, ids...)
	if err != nil {
		return nil, err
	}
	var absent []string
	for _, id := range ids {
		if !slices.ContainsFunc(entries, func(e outbox.Entry) bool { return e.ID == id }) {
			absent = append(absent, id)
		}
	}
	if len(absent) > 0 {
		return nil, &failure{code: exitRejected, message: "no change has the ID " + strings.Join(absent, ", "), next: "correct what is named above"}
	}
	return entries, nil
}
