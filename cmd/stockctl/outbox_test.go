package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

var (
	testHead = oakra.StockKey{SKU: "outbox-head", LocationID: "warehouse-1"}
	testTail = oakra.StockKey{SKU: "outbox-tail", LocationID: "warehouse-1"}
)

// outboxSession is a session on a shop's database.
type outboxSession struct {
	*session
	box  *outbox.Outbox
	flag string // --db=…
}

func newOutboxSession(t *testing.T, o outbox.Options) *outboxSession {
	records := append(catalogue(),
		oakra.StockRecord{ID: 1, SKU: testHead.SKU, LocationID: testHead.LocationID, Quantity: 200_000},
		oakra.StockRecord{ID: 2, SKU: testTail.SKU, LocationID: testTail.LocationID, Quantity: 200_000})
	s := &outboxSession{session: newSession(t, records...)}
	file := filepath.Join(t.TempDir(), "shop %41 #1.db") // no character of it may be taken as part of a URL
	s.flag = "--db=sqlite:" + file
	if err := os.WriteFile(file, nil, 0o600); err != nil { // an empty file is a database without tables
		t.Fatal(err)
	}
	db, err := openDatabase("sqlite:" + file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	o.Witnesses = [2]oakra.StockKey{testHead, testTail}
	s.box, err = outbox.New(t.Context(), db, s.server.Client().Stock, o)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Size() == 0 {
		t.Fatal("another file was opened", err)
	}
	return s
}

// outbox runs a command of stockctl outbox.
func (s *outboxSession) outbox(wantCode int, args ...string) (stdout, stderr string) {
	s.t.Helper()
	return s.run(wantCode, append([]string{"outbox", s.flag}, args...)...)
}

func (s *outboxSession) add(id, sku string, change int64) {
	s.t.Helper()
	err := s.box.Add(s.t.Context(), outbox.Change{ID: id, SKU: sku, LocationID: "warehouse-1", QuantityChange: change})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *outboxSession) state(id string) outbox.State {
	s.t.Helper()
	entries, err := s.box.Find(s.t.Context(), id)
	if err != nil || len(entries) != 1 {
		s.t.Fatal(err, entries)
	}
	return entries[0].State
}

func (s *outboxSession) setQuantity(id, quantity int64) {
	for _, r := range s.server.Records() {
		if r.ID == id {
			r.Quantity = quantity
			s.server.SetRecords(r)
		}
	}
}

// withoutTimes replaces what differs from run to run.
func withoutTimes(text string) string {
	text = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`).ReplaceAllString(text, "2026-01-02 03:04:05")
	text = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`).ReplaceAllString(text, "T")
	return regexp.MustCompile(`\S+ pid \d+ \w+`).ReplaceAllString(text, "dispatcher")
}

func TestOutboxStatusListShow(t *testing.T) {
	s := newOutboxSession(t, outbox.Options{})
	stdout, _ := s.outbox(exitOK, "status")
	equal(t, "status", stdout, `
account            default
dispatched by      no process
pending            0
parked             0
open attempts      0
last landing       never
requests           0, with 0 unknown outcomes, 0 taken back, 0 rejected
records a request  500
`)
	s.add("order-1/1", "cap-navy", -2)
	s.add("order-1/2", "hat", -1)
	if err := s.box.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.add("order-2/1", "cap-navy", 3)
	stdout, _ = s.outbox(exitOK, "status")
	contains(t, stdout, "pending            1, the oldest for ", "parked             1\n", "requests           1, with 0")
	stdout, _ = s.outbox(exitOK, "status", "--json")
	contains(t, stdout, `"account": "default"`, `"halted": ""`, `"pending": 1`, `"parked": 1`, `"warnings": []`)

	stdout, stderr := s.outbox(exitOK, "list")
	equal(t, "stderr", stderr, "")
	equal(t, "list", withoutTimes(stdout), `
ID         STATE    LOCATION     SKU       CHANGE  ADDED                REASON
order-2/1  pending  warehouse-1  cap-navy      +3  2026-01-02 03:04:05
order-1/2  parked   warehouse-1  hat           -1  2026-01-02 03:04:05  not known: Oakra has no stock record of this SKU and location
order-1/1  applied  warehouse-1  cap-navy      -2  2026-01-02 03:04:05
`)
	stdout, stderr = s.outbox(exitOK, "list", "--limit", "1")
	contains(t, stdout, "order-2/1")
	contains(t, stderr, "there may be more: --before ")
	before := strings.Fields(stderr)[5]
	stdout, _ = s.outbox(exitOK, "list", "--limit", "1", "--before", before)
	contains(t, stdout, "order-1/2")
	stdout, _ = s.outbox(exitOK, "list", "--state", "parked", "--sku", "hat", "--location", "warehouse-1", "--json")
	var listed []entryJSON
	if err := json.Unmarshal([]byte(result(t, stdout)), &listed); err != nil || len(listed) != 1 {
		t.Fatal(err, stdout)
	}
	if e := listed[0]; e.ID != "order-1/2" || e.State != outbox.StateParked || e.QuantityChange != -1 || e.Settled != nil {
		t.Errorf("%+v", e)
	}
	stdout, _ = s.outbox(exitOK, "list", "--state", "dropped", "--json")
	contains(t, stdout, `"result": []`)

	stdout, _ = s.outbox(exitOK, "show", "order-1/1", "order-1/2")
	contains(t, withoutTimes(stdout),
		"AT                   EVENT      BY  NOTE\n2026-01-02 03:04:05  added\n", "attempted      attempt ", ": landed\n", "applied",
		"parked  dispatcher  not known")
	stdout, _ = s.outbox(exitOK, "show", "order-1/1", "--json")
	contains(t, stdout, `"action": "added"`, `"action": "applied"`)
	_, stderr = s.outbox(exitRejected, "show", "order-1/1", "order-9/1")
	contains(t, stderr, "no change has the ID order-9/1\n")
}

func TestOutboxResolve(t *testing.T) {
	s := newOutboxSession(t, outbox.Options{})
	s.server.SetDialect(oakratest.Dialect{RejectNegative: true})
	s.add("a", "cap-navy", -500) // the record has 120
	s.add("b", "hat", -1)
	s.add("c", "hat", -1)
	if err := s.box.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	who := []string{"--by", "ann", "--note", "a new delivery came"}

	s.stdin = "n\n"
	_, stderr := s.outbox(exitError, slices.Concat([]string{"resolve", "resend", "a"}, who)...)
	contains(t, stderr, "a   parked", "Send these changes again? [y/N] ", "not confirmed; nothing was done")
	s.stdin = ""
	s.outbox(exitError, slices.Concat([]string{"resolve", "drop", "a"}, who)...)
	stdout, _ := s.outbox(exitError, slices.Concat([]string{"resolve", "drop", "a", "--json"}, who)...)
	contains(t, stdout, "confirm with --yes")
	_, stderr = s.outbox(exitRejected, slices.Concat([]string{"resolve", "drop", "a", "z", "--yes"}, who)...)
	contains(t, stderr, "no change has the ID z")
	if got := s.state("a"); got != outbox.StateParked {
		t.Fatalf("it is %s", got)
	}

	s.stdin = "Yes\n"
	stdout, _ = s.outbox(exitOK, slices.Concat([]string{"resolve", "resend", "a"}, who)...)
	contains(t, stdout, "a   pending")
	stdout, stderr = s.outbox(exitOK, slices.Concat([]string{"resolve", "applied", "b", "--yes"}, who)...)
	contains(t, stdout, "b   applied")
	equal(t, "stderr", stderr, "")
	stdout, _ = s.outbox(exitOK, slices.Concat([]string{"resolve", "drop", "c", "--yes", "--json"}, who)...)
	contains(t, stdout, `"state": "dropped"`)
	_, stderr = s.outbox(exitRejected, slices.Concat([]string{"resolve", "drop", "c", "--yes"}, who)...)
	contains(t, stderr, `the change is not parked: ["c"]`)
	stdout, _ = s.outbox(exitOK, "show", "b")
	contains(t, stdout, "resolved", "ann", "mark applied: a new delivery came")

	s.setQuantity(131, 1000)
	stdout, _ = s.outbox(exitOK, "drain")
	contains(t, stdout, "pending            0\n", "parked             0\n")
	if q := s.quantity(131); q != 500 {
		t.Errorf("the cap has %d units", q)
	}
}

func TestOutboxHaltAndResume(t *testing.T) {
	s := newOutboxSession(t, outbox.Options{Grace: time.Millisecond})
	s.add("a", "cap-navy", -1)
	s.outbox(exitOK, "drain")
	s.setQuantity(1, 7)
	s.add("b", "cap-navy", -1)
	stdout, stderr := s.outbox(exitRejected, "drain", "--grace", "5ms")
	contains(t, stderr, "the outbox is halted: the witnesses have 7 and ", "next: find out what happened, then stockctl outbox resume")
	contains(t, stdout, "halted ")
	_, stderr = s.outbox(exitRejected, "status")
	contains(t, stderr, "the outbox is halted")
	if q := s.quantity(131); q != 119 {
		t.Fatalf("the cap has %d units: it sent something", q)
	}

	who := []string{"--by", "ann", "--note", "a stock take set head"}
	_, stderr = s.outbox(exitError, slices.Concat([]string{"resume", "--yes"}, who)...)
	contains(t, stderr, `"outbox-head" at "warehouse-1" is missing or has too few units (7)`)
	s.setQuantity(1, 200_000)
	s.stdin = "n"
	_, stderr = s.outbox(exitError, slices.Concat([]string{"resume", "--database-restored"}, who)...)
	contains(t, stderr, "halted: the witnesses have 7", "park all changes that are not settled? [y/N]", "nothing was done")
	s.stdin = "y"
	stdout, stderr = s.outbox(exitOK, slices.Concat([]string{"resume"}, who)...)
	contains(t, stderr, "park the changes that were being sent? [y/N]")
	contains(t, stdout, "dispatched by      no process\n", "pending            1,")
	s.outbox(exitOK, "drain")
	if q := s.quantity(131); q != 118 {
		t.Errorf("the cap has %d units", q)
	}

	s.setQuantity(1, 300_000)
	s.add("c", "cap-navy", -1)
	s.outbox(exitRejected, "drain", "--grace", "5ms")
	_, stderr = s.outbox(exitOK, slices.Concat([]string{"resume", "--yes", "--database-restored"}, who)...)
	contains(t, stderr, "parked by this: 1; see stockctl outbox list --state parked")
}

func TestOutboxDrainIsStopped(t *testing.T) {
	s := newOutboxSession(t, outbox.Options{})
	s.add("a", "cap-navy", -1)
	s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 503, Body: "<html>"})
	stdout, stderr := s.outbox(exitRetry, "drain", "--for", "300ms")
	contains(t, stderr, "not drained in 300ms")
	contains(t, stdout, "pending            1, ")

	ctx, stop := context.WithCancel(t.Context())
	s.ctx = ctx
	go func() { // presses Ctrl-C once the program sends
		_ = s.server.Wait(t.Context(), "stock.change")
		stop()
	}()
	s.server.ClearFaults()
	s.server.SetLatency(200*time.Millisecond, 0)
	s.add("b", "jeans-slim-32", -1)
	_, stderr = s.outbox(exitRetry, "drain")
	contains(t, stderr, "told to stop", "next: run it again when you like")
	if got := s.state("b"); got != outbox.StateApplied {
		t.Errorf("the request under way was not recorded: %s", got)
	}
}

// A mistake in the command line creates nothing: no file, no tables and no account.
func TestOutboxUsage(t *testing.T) {
	s := newOutboxSession(t, outbox.Options{})
	empty := filepath.Join(t.TempDir(), "empty.db")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	absent := filepath.Join(t.TempDir(), "absent.db")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"status"}, "which database?"},
		{[]string{"status", "--db", "shop.db"}, "--db must begin with sqlite: or postgres://"},
		{[]string{"status", "--db", "sqlite:" + absent}, "absent.db: "},
		{[]string{"status", "--db", "sqlite:" + empty}, "the database has no outbox"},
		{[]string{"status", "--db", "postgres://u:secret@127.0.0.1:1/shop?connect_timeout=1"}, "the database has no outbox, or cannot be read"},
		{[]string{"status", s.flag, "--name", "berlin"}, `the outbox has no account "berlin", only ["default"]: give --name`},
		{[]string{"list", s.flag, "--state", "lost"}, "--state"},
		{[]string{"list", s.flag, "--limit", "0"}, "--limit must be positive"},
		{[]string{"list", s.flag, "--sku", "hat"}, "SKU and LocationID need StatePending or StateParked"},
		{[]string{"resolve", "resend", "a", s.flag, "--by", "ann"}, "--note"},
		{[]string{"resolve", "resend", "a", s.flag, "--note", "so"}, "--by"},
		{[]string{"resolve", "lose", "a", s.flag, "--note", "so", "--by", "ann"}, "resend"},
		{[]string{"resume", s.flag}, "--by"},
		{[]string{"drain", s.flag, "--grace", "0s"}, "must be positive"},
	} {
		t.Run(fmt.Sprint(test.args), func(t *testing.T) {
			_, stderr := s.run(exitError, append([]string{"outbox"}, test.args...)...)
			contains(t, stderr, test.want)
			if strings.Contains(stderr, "secret") {
				t.Error("the password is printed: " + stderr)
			}
		})
	}
	if _, err := os.Stat(absent); err == nil {
		t.Error("the file was made")
	}
	db, err := sql.Open("sqlite", "file:"+empty)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var tables int
	if err := db.QueryRow("SELECT count(*) FROM sqlite_master").Scan(&tables); err != nil || tables != 0 {
		t.Errorf("%d tables were made, %v", tables, err)
	}
}

// An account without witnesses has no row before its first dispatcher, but its changes
// are still shown.
func TestOutboxBeforeItIsDispatched(t *testing.T) {
	s := newOutboxSession(t, outbox.Options{})
	db, err := openDatabase(strings.TrimPrefix(s.flag, "--db="))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if s.box, err = outbox.New(t.Context(), db, nil, outbox.Options{Name: "berlin"}); err != nil {
		t.Fatal(err)
	}
	s.add("order-1/1", "cap-navy", -2)
	stdout, _ := s.outbox(exitOK, "status", "--name", "berlin")
	contains(t, stdout, "account            berlin\n", "pending            1")
}
