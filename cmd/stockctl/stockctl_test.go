package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// appKey is an app key that no program would print by chance.
const appKey = "9f1c-very-secret-0b77"

// output is a buffer that several goroutines may write to, as they do when the program
// is told to stop.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// session runs commands against one server.
type session struct {
	t        *testing.T
	server   *oakratest.Server
	ctx      context.Context
	cut      chan struct{}
	stdin    string
	terminal bool
}

func newSession(t *testing.T, records ...oakra.StockRecord) *session {
	if records == nil {
		records = catalogue()
	}
	server := oakratest.NewServer(records...)
	t.Cleanup(server.Close)
	server.Key = appKey
	addSales(server)
	return &session{t: t, server: server, ctx: t.Context(), cut: make(chan struct{})}
}

// run returns what the command printed, and checks its exit code. No command may
// print the app key.
func (s *session) run(wantCode int, args ...string) (stdout, stderr string) {
	s.t.Helper()
	var out, errs output
	code := run(s.ctx, process{
		args:       append(args, "--base-url", s.server.URL),
		stdin:      strings.NewReader(s.stdin),
		stdout:     &out,
		stderr:     &errs,
		getenv:     func(name string) string { return map[string]string{keyVariable: appKey}[name] },
		isTerminal: func(io.Writer) bool { return s.terminal },
		cut:        s.cut,
	})
	stdout, stderr = out.String(), errs.String()
	if code != wantCode {
		s.t.Errorf("%q: exit code %d, want %d\n%s%s", args, code, wantCode, stdout, stderr)
	}
	if strings.Contains(stdout+stderr, appKey) {
		s.t.Errorf("%q printed the app key:\n%s%s", args, stdout, stderr)
	}
	return stdout, stderr
}

func (s *session) quantity(id int64) int64 {
	s.t.Helper()
	for _, r := range s.server.Records() {
		if r.ID == id {
			return r.Quantity
		}
	}
	s.t.Fatalf("no record %d", id)
	return 0
}

// writes returns how many write requests arrived. It does not count the empty lists by
// which the client finds out a route.
func (s *session) writes() int {
	n := 0
	for _, r := range s.server.Requests() {
		if r.Op != "" && r.Op != "stock.list" {
			n++
		}
	}
	return n
}

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if want = strings.TrimLeft(want, "\n"); got != want {
		t.Errorf("%s is:\n%s\nwant:\n%s", what, got, want)
	}
}

// result returns the result that a command printed with --json, without an error.
func result(t *testing.T, stdout string) string {
	t.Helper()
	var d struct {
		ExitCode *int            `json:"exit_code"`
		Result   json.RawMessage `json:"result"`
		Error    *errorJSON      `json:"error"`
	}
	decoder := json.NewDecoder(strings.NewReader(stdout))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil || d.ExitCode == nil || (*d.ExitCode == exitOK) != (d.Error == nil) {
		t.Fatalf("%v: not the shape of every command:\n%s", err, stdout)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, d.Result, "", "  "); err != nil {
		t.Fatal(err)
	}
	return b.String() + "\n"
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in:\n%s", part, text)
		}
	}
}

func TestList(t *testing.T) {
	s := newSession(t)
	stdout, stderr := s.run(exitAbsent, "list", "shirt-blue-m", "hat", "socks-wool-3pack")
	equal(t, "stdout", stdout, `
 ID  LOCATION     SKU               QUANTITY
122  warehouse-1  shirt-blue-m           135
129  warehouse-1  socks-wool-3pack      1250
134  warehouse-2  shirt-blue-m            60
141  warehouse-2  socks-wool-3pack       480
146  shop-berlin  shirt-blue-m             8
153  shop-berlin  socks-wool-3pack        40
`)
	equal(t, "stderr", stderr, "stockctl: no stock record: hat\n")

	stdout, stderr = s.run(exitAbsent, "list", "shirt-blue-m", "hat", "--location", "warehouse-1", "--json")
	contains(t, stdout, `"exit_code": 6`, `"message": "no stock record: hat"`)
	equal(t, "the result", result(t, stdout), `
[
  {
    "id": 122,
    "location_id": "warehouse-1",
    "sku": "shirt-blue-m",
    "quantity": 135
  }
]
`)
	equal(t, "stderr", stderr, "")

	stdout, _ = s.run(exitAbsent, "--json", "list", "hat")
	equal(t, "the result", result(t, stdout), "[]\n")
}

func TestListHidesControlCharacters(t *testing.T) {
	s := newSession(t, oakra.StockRecord{ID: 1, SKU: "a", LocationID: "w\x1b[2J", Quantity: 1})
	stdout, _ := s.run(exitOK, "list", "a")
	equal(t, "stdout", stdout, "ID  LOCATION  SKU  QUANTITY\n 1  w·[2J     a           1\n")
}

func TestUpdate(t *testing.T) {
	s := newSession(t)
	stdout, _ := s.run(exitOK, "update", "122=7", "scarf-red@warehouse-1=0")
	equal(t, "stdout", stdout, `
 ID  LOCATION     SKU           QUANTITY
122  warehouse-1  shirt-blue-m         7
132  warehouse-1  scarf-red            0
`)
	if got := s.quantity(122); got != 7 {
		t.Errorf("the server has %d", got)
	}
}

func TestChange(t *testing.T) {
	s := newSession(t)
	stdout, _ := s.run(exitOK, "change", "122=-2", "shirt-green-m@warehouse-1=+3", "124=1", "--json")
	var records []oakra.StockRecord
	if err := json.Unmarshal([]byte(result(t, stdout)), &records); err != nil {
		t.Fatal(err)
	}
	want := []oakra.StockRecord{
		{ID: 122, LocationID: "warehouse-1", SKU: "shirt-blue-m", Quantity: 133},
		{ID: 123, LocationID: "warehouse-1", SKU: "shirt-green-m", Quantity: 145},
		{ID: 124, LocationID: "warehouse-1", SKU: "shirt-white-l", Quantity: 211},
	}
	if !slices.Equal(records, want) {
		t.Errorf("got %v", records)
	}
	if n := s.writes(); n != 1 {
		t.Errorf("%d writes", n)
	}
}

func TestWriteRejected(t *testing.T) {
	s := newSession(t)
	_, stderr := s.run(exitRejected, "change", "122=-2", "999=3")
	equal(t, "stderr", stderr, `
stockctl: POST /api/v1/stock/stock-records/change/: 400 Bad Request
ITEM    OUTCOME      REASON
122=-2  not applied  rejected together with the others
999=3   not applied  id: Invalid pk "999" - object does not exist.
stock: not changed
next: correct what is named above
`)
	stdout, stderr := s.run(exitRejected, "change", "999=3", "--json")
	equal(t, "stderr", stderr, "")
	equal(t, "stdout", stdout, `
{
  "exit_code": 2,
  "result": null,
  "error": {
    "message": "POST /api/v1/stock/stock-records/change/: 400 Bad Request: stock_records[0].id: Invalid pk \"999\" - object does not exist.",
    "stock": "not changed",
    "next": "correct what is named above",
    "items": [
      {
        "item": "999=3",
        "outcome": "not applied",
        "reason": "id: Invalid pk \"999\" - object does not exist."
      }
    ]
  }
}
`)
}

func TestUnknownKeyWritesNothing(t *testing.T) {
	s := newSession(t)
	_, stderr := s.run(exitRejected, "change", "122=-2", "hat@warehouse-1=1", "shirt-blue-m@moon=1")
	contains(t, stderr, "no stock record: hat@warehouse-1, shirt-blue-m@moon\n")
	_, stderr = s.run(exitError, "change", "122=-2", "shirt-blue-m@warehouse-1=1")
	contains(t, stderr, `"122=-2" and "shirt-blue-m@warehouse-1=1" name the same record, 122`)
	if n := s.writes(); n != 0 {
		t.Errorf("%d writes", n)
	}
}

// TestSyncNoneKnown checks a feed that spells the locations in its own way.
func TestSyncNoneKnown(t *testing.T) {
	s := newSession(t)
	s.stdin = "sku,location_id,quantity\nscarf-red,WAREHOUSE-1,1\n"
	_, stderr := s.run(exitRejected, "sync", "-")
	contains(t, stderr, "Oakra knows none of the targets")
	contains(t, stderr, "stock: not changed")
}

// TestListOfNowhere checks that a wrong address is reported as such. As a list changes
// nothing, the report does not say whether stock changed.
func TestListOfNowhere(t *testing.T) {
	s := newSession(t)
	s.server.URL = strings.Replace(s.server.URL, "/api/v1/", "/elsewhere/", 1)
	_, stderr := s.run(exitError, "list", "scarf-red")
	contains(t, stderr, "next: check --base-url")
	if strings.Contains(stderr, "stock:") {
		t.Error(stderr)
	}
}

// TestStopAtStandardInput presses Ctrl-C while the program waits for the feed.
func TestStopAtStandardInput(t *testing.T) {
	s := newSession(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	time.AfterFunc(20*time.Millisecond, cancel)
	var out, errs output
	code := run(ctx, process{
		args: []string{"sync", "-", "--base-url", s.server.URL}, stdin: r, stdout: &out, stderr: &errs,
		getenv: func(string) string { return appKey }, isTerminal: func(io.Writer) bool { return false }, cut: s.cut,
	})
	contains(t, errs.String(), "told to stop", "next: run it again when you like\n")
	if code != exitRetry || s.writes() != 0 {
		t.Errorf("exit code %d, %d writes", code, s.writes())
	}
}

func TestUsage(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"", "expected one of"},
		{"lits x", "lits"},
		{"list", "<sku>"},
		{"list x --colour", "unknown flag --colour"},
		{"list x --timeout 0s", "--timeout must be positive"},
		{"list x --demo", "--base-url and --demo"},
		{"change 122", `"122" is not ID=NUMBER`},
		{"change 0=1", "a whole number from 1"},
		{"change hat=1", `"hat" is neither the ID`},
		{"change @here=1", "a SKU and a location are needed"},
		{"change 122=1.5", `"1.5" is not a whole number`},
		{"change 122=9223372036854775808", "out of range"},
		{"change 122=0", "to set the quantity, use update"},
		{"change 122=1 122=2", "name the same record"},
		{"update 122=-3", "use change"},
		{"update 122=+3", "use change"},
		{"sync", "which feed?"},
		{"sync no-such.csv", "no such file"},
		{"sync - --mode both", "--mode"},
		{"sync - --batch-size=-1", "--batch-size"},
		{"sync - --settle-after=-1s", "--settle-after must be positive"},
		{"sync - --settle-after=0", "--settle-after must be positive"},
		{"sale", "expected"},
		{"sale cancel --reason other", "<sale-id>"},
		{"sale cancel 100001235", "missing flags: --reason=REASON"},
		{"sale cancel 100001235 --reason broken", `--reason must be one of "out_of_stock","customer_request","other"`},
		{"ship", "<sale-id>"},
		{"serve --addr nowhere", "nowhere"},
		{"serve --key it's", "--key"},
	} {
		t.Run(test.args, func(t *testing.T) {
			s := newSession(t)
			s.stdin = "sku,location_id,quantity\nscarf-red,warehouse-1,1\n"
			stdout, stderr := s.run(exitError, strings.Fields(test.args)...)
			contains(t, stderr, test.want)
			equal(t, "stdout", stdout, "")
			if n := s.writes(); n != 0 {
				t.Errorf("%d writes", n)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	s := newSession(t)
	stdout, _ := s.run(exitOK, "--help")
	contains(t, stdout, keyVariable, "Exit codes: 0 done;", "Ctrl-C or SIGTERM")
	stdout, _ = s.run(exitOK, "sync", "--help")
	contains(t, stdout, "--max-steps", "--dry-run")
	stdout, _ = s.run(exitOK, "sale", "cancel", "--help")
	contains(t, stdout, "--reason=REASON", "customer_request or other")
	stdout, _ = s.run(exitOK, "--help")
	contains(t, strings.Join(strings.Fields(stdout), " "), "6 list: a SKU has no stock record")
	for _, args := range [][]string{{"--version"}, {"list", "--version"}} {
		stdout, stderr := s.run(exitOK, args...)
		equal(t, "stdout", stdout, "stockctl v"+oakra.Version+"\n")
		equal(t, "stderr", stderr, "")
	}
}

func TestNoKey(t *testing.T) {
	for key, want := range map[string]string{"": "set the environment variable OAKRA_APP_KEY", "se cret": "app key"} {
		var errs output
		code := run(t.Context(), process{
			args: []string{"list", "x"}, stdout: io.Discard, stderr: &errs,
			getenv: func(string) string { return key }, isTerminal: func(io.Writer) bool { return false },
		})
		if code != exitError || strings.Contains(errs.String(), "se cret") {
			t.Errorf("%d: %s", code, &errs)
		}
		contains(t, errs.String(), want)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestOutputFails(t *testing.T) {
	s := newSession(t)
	for _, args := range []string{"list cap-navy", "change 122=-1", "sync -", "ship 100001234", "sale cancel 100001234 --reason other"} {
		var errs output
		code := run(t.Context(), process{
			args: append(strings.Fields(args), "--base-url", s.server.URL), stdin: strings.NewReader(feed),
			stdout: fullDisk{}, stderr: &errs,
			getenv: func(string) string { return appKey }, isTerminal: func(io.Writer) bool { return false },
		})
		if code != exitError {
			t.Errorf("%s: exit code %d", args, code)
		}
		contains(t, errs.String(), "no space left")
		switch args[:4] {
		case "chan", "sync":
			contains(t, errs.String(), "the stock was written")
		case "ship", "sale":
			contains(t, errs.String(), "the sales were changed")
		}
	}
}

func TestExitCodes(t *testing.T) {
	respond := func(status int, header http.Header) oakratest.Fault {
		return oakratest.Fault{Kind: oakratest.Respond, Status: status, Header: header, Body: `{"detail": "No ` + appKey + `."}`}
	}
	later := http.Header{"Retry-After": {"90"}}
	for _, test := range []struct {
		name  string
		fault oakratest.Fault
		args  string
		code  int
		want  []string
	}{
		{"list forbidden", respond(403, nil), "list x", exitError, []string{"403", "use an app key that may do this"}},
		{"key", respond(401, nil), "change 122=1", exitError, []string{"stock: not changed", "next: check the app key in OAKRA_APP_KEY"}},
		{"no item named", respond(400, nil), "change 122=1", exitError,
			[]string{"stock: not changed", "next: check --base-url, and what is named above: the response does not say what is at fault"}},
		{"limit", respond(429, later), "change 122=1", exitRetry, []string{"stock: not changed", "next: run it again in 1m30s"}},
		{"list limit", respond(429, later), "list x", exitRetry, []string{"run it again in 1m30s"}},
		{"lookup limit", respond(429, later), "update cap-navy@warehouse-1=1", exitRetry, []string{"stock: not changed"}},
		{"redirect", respond(302, nil), "change 122=1", exitError, []string{"next: check --base-url"}},
		{"lost response", oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter}, "change 122=1 123=1", exitUnknown,
			[]string{"122=1  unknown", "stock: unknown whether", "a change sent twice counts twice"}},
		{"server error", respond(501, nil), "update 122=1", exitUnknown, []string{"an update may be sent twice"}},
		{"record left out", oakratest.Fault{Kind: oakratest.OmitRecord}, "change 122=1 123=1", exitUnknown,
			[]string{"122=1  applied", "123=1  unknown"}},
		{"multi-status", oakratest.Fault{Kind: oakratest.Respond, Status: 207, Body: `[{"id":122,"location_id":"w","sku":"s","quantity":1}]`},
			"change 122=1 123=1", exitUnknown, []string{"122=1  unknown", "123=1  unknown"}},
		{"response cut short", oakratest.Fault{Kind: oakratest.CutBody}, "change 122=1 123=1 124=1", exitOK,
			[]string{"stock: changed as asked, only the response was lost", "next: do not run it again"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSession(t)
			s.server.Inject(test.fault)
			_, stderr := s.run(test.code, strings.Fields(test.args)...)
			contains(t, stderr, test.want...)
		})
	}
	t.Run("unreachable", func(t *testing.T) {
		s := newSession(t)
		s.server.Close()
		_, stderr := s.run(exitRetry, "change", "122=1")
		contains(t, stderr, "unreachable", "stock: not changed", "next: run it again later")
	})
}

func many(n int) (records []oakra.StockRecord, items []string) {
	for id := int64(1); id <= int64(n); id++ {
		records = append(records, oakra.StockRecord{ID: id, LocationID: "w", SKU: fmt.Sprint("s", id), Quantity: 10})
		items = append(items, fmt.Sprintf("%d=+1", id))
	}
	return records, items
}

// feedOf returns a feed that sets all records to a quantity.
func feedOf(records []oakra.StockRecord, quantity int64) string {
	var b strings.Builder
	b.WriteString("sku,location_id,quantity\n")
	for _, r := range records {
		fmt.Fprintf(&b, "%s,%s,%d\n", r.SKU, r.LocationID, quantity)
	}
	return b.String()
}

func TestChangeMany(t *testing.T) {
	records, items := many(1200)
	s := newSession(t, records...)
	stdout, stderr := s.run(exitOK, append([]string{"change"}, items...)...)
	equal(t, "stdout", stdout, "1200 records written\n")
	equal(t, "stderr", stderr, "")
	if n := s.writes(); n != 3 {
		t.Errorf("%d writes", n)
	}

	// First an item is rejected, then a request is lost.
	s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 400, Body: `{"stock_records":[{"id":["Not here."]}]}`, Times: 1})
	_, stderr = s.run(exitPartly, append([]string{"change"}, items...)...)
	contains(t, stderr, "not applied, 0 unknown", "stock: partly changed", "only those")
	s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Times: 1})
	_, stderr = s.run(exitUnknown, append([]string{"change"}, items...)...)
	contains(t, stderr, "0 not applied", "unknown")

	// Nothing is applied, first because of the key, and then because of an item as well.
	s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 401})
	_, stderr = s.run(exitError, append([]string{"change"}, items...)...)
	contains(t, stderr, "1200 not applied", "stock: not changed", "next: check the app key in OAKRA_APP_KEY")
	s.server.ClearFaults()
	s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 400, Times: 1, Body: `{"stock_records":[{"id":["No."]}]}`})
	s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 401})
	_, stderr = s.run(exitRejected, append([]string{"change"}, items...)...)
	contains(t, stderr, "1200 not applied", "stock: not changed", "next: correct what is named above")
}

const feed = `sku,location_id,quantity
shirt-blue-m,warehouse-1,130
shirt-green-m,warehouse-1,142
scarf-red,warehouse-1,12
`

func TestSync(t *testing.T) {
	s := newSession(t)
	s.stdin = feed
	stdout, stderr := s.run(exitOK, "sync", "-", "--dry-run")
	equal(t, "stdout", stdout, `
 ID  LOCATION     SKU           FROM   TO  DIFFERENCE
122  warehouse-1  shirt-blue-m   135  130          -5
132  warehouse-1  scarf-red        0   12         +12

2 records would change, 1 right already
`)
	equal(t, "stderr", stderr, "")
	stdout, _ = s.run(exitOK, "sync", "-", "--dry-run", "--json")
	equal(t, "the result", result(t, stdout), `
{
  "steps": [
    {
      "id": 122,
      "location_id": "warehouse-1",
      "sku": "shirt-blue-m",
      "from": 135,
      "to": 130,
      "difference": -5
    },
    {
      "id": 132,
      "location_id": "warehouse-1",
      "sku": "scarf-red",
      "from": 0,
      "to": 12,
      "difference": 12
    }
  ],
  "equal": 1,
  "not_found": [],
  "ambiguous": [],
  "conflicts": []
}
`)
	_, stderr = s.run(exitRejected, "sync", "-", "--max-steps", "1")
	equal(t, "stderr", stderr, `
stockctl: 2 records would change, over the 1 of --max-steps
stock: not changed
next: look at the plan (--dry-run shows it), and raise --max-steps if it is right
`)
	if n := s.writes(); n != 0 {
		t.Fatalf("%d writes", n)
	}

	stdout, stderr = s.run(exitOK, "sync", "-", "--max-steps", "2", "--batch-size", "1")
	equal(t, "stdout", stdout, "2 records changed, 1 right already\n")
	equal(t, "stderr", stderr, "")
	if a, b, n := s.quantity(122), s.quantity(132), s.writes(); a != 130 || b != 12 || n != 2 {
		t.Errorf("%d and %d, by %d writes", a, b, n)
	}
	stdout, _ = s.run(exitOK, "sync", "-", "--mode", "update", "--json")
	equal(t, "the result", result(t, stdout), `
{
  "changed": 0,
  "equal": 3,
  "not_found": 0,
  "rejected": 0,
  "differs": 0,
  "not_tried": 0,
  "unknown": 0,
  "not_synced": []
}
`)
}

func TestSyncNotSynced(t *testing.T) {
	s := newSession(t)
	s.stdin = feed + "hat,warehouse-1,5\ncap-navy,warehouse-1,1\ncap-navy,warehouse-1,2\n"
	stdout, _ := s.run(exitRejected, "sync", "-", "-n")
	contains(t, stdout, "not found in Oakra: hat@warehouse-1\n", "given several times: cap-navy@warehouse-1: 1 2\n")
	stdout, stderr := s.run(exitPartly, "sync", "-")
	equal(t, "stdout", stdout, `
ID  LOCATION     SKU       TARGET  STATUS     REASON
    warehouse-1  hat            5  not found
    warehouse-1  cap-navy       1  rejected   given 2 times, and SumDuplicates is not set
    warehouse-1  cap-navy       2  rejected   given 2 times, and SumDuplicates is not set

2 records changed, 1 right already, 1 not found, 2 rejected
`)
	equal(t, "stderr", stderr, `
stockctl: not every target is synced
stock: partly changed
next: correct the feed, or leave out what is named above
`)
	s.run(exitRejected, "sync", "-") // nothing is left to change
}

// TestSyncDiffers checks a target that Oakra accepts, but stores with another quantity.
func TestSyncDiffers(t *testing.T) {
	s := newSession(t)
	s.server.SetDialect(oakratest.Dialect{MaxQuantity: 1500})
	const alone = "sku,location_id,quantity\nsocks-wool-3pack,warehouse-1,2000\n"
	for _, test := range []struct{ name, feed, count string }{
		{"alone", alone, "0 records changed, 0 right already, 1 differs\n"},
		{"with others", alone + "scarf-red,warehouse-1,12\nhat,warehouse-1,5\n", "1 record changed, 0 right already, 1 not found, 1 differs\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.server.SetRecords(catalogue()...)
			s.stdin = test.feed
			stdout, stderr := s.run(exitPartly, "sync", "-", "--mode", "update")
			contains(t, stdout, "129  warehouse-1  socks-wool-3pack    2000  differs", "it was set to 2000, and the response shows 1500\n", test.count)
			contains(t, stderr, "stock: partly changed\n", "next: look at the records that differ")
			if n := s.server.Quantity(129); n != 1500 {
				t.Errorf("the server has %d", n)
			}
		})
	}
	s.stdin = alone
	stdout, _ := s.run(exitPartly, "sync", "-", "--mode", "update", "--json")
	var d struct{ Result summary }
	if err := json.Unmarshal([]byte(stdout), &d); err != nil {
		t.Fatal(err)
	}
	seen := int64(1500)
	want := summary{Differs: 1, NotSynced: []targetJSON{{
		ID: 129, LocationID: "warehouse-1", SKU: "socks-wool-3pack", Quantity: 2000, Seen: &seen,
		Status: "differs", Reason: "it was set to 2000, and the response shows 1500",
	}}}
	if !reflect.DeepEqual(d.Result, want) {
		t.Errorf("got %+v", d.Result)
	}
}

// TestSyncSeveralRecords checks that two records of one SKU and location are shown and
// left alone.
func TestSyncSeveralRecords(t *testing.T) {
	twins := append(catalogue(), oakra.StockRecord{ID: 900, SKU: "cap-navy", LocationID: "warehouse-1"})
	s := newSession(t, twins...)
	s.stdin = feed + "cap-navy,warehouse-1,1\n"
	stdout, stderr := s.run(exitRejected, "sync", "-", "-n")
	contains(t, stdout, "several records in Oakra: cap-navy@warehouse-1\n")
	contains(t, stderr, "1 with several records there")
	stdout, _ = s.run(exitPartly, "sync", "-")
	contains(t, stdout, "rejected", "there are 2 records for it in Oakra", "2 records changed, 1 right already, 1 rejected\n")
}

func TestSyncExitCodes(t *testing.T) {
	respond := func(status int, header http.Header) oakratest.Fault {
		return oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: status, Header: header, Body: `{"detail": "No."}`}
	}
	for _, test := range []struct {
		name  string
		fault oakratest.Fault
		code  int
		want  []string
	}{
		{"key", respond(401, nil), exitError, []string{"stock: not changed", "next: check the app key in OAKRA_APP_KEY; then run it again"}},
		{"rejected", oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 400, Body: `{"stock_records":[{"id":["No."]},{"id":["No."]}]}`},
			exitRejected, []string{"stock: not changed", "correct the feed"}},
		{"limit", respond(429, http.Header{"Retry-After": {"90"}}), exitRetry, []string{"stock: not changed", "next: run it again"}},
		{"lost response", oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Times: 1}, exitOK, nil}, // settled by reading
		{"server error", respond(502, nil), exitUnknown, []string{"stock: unknown"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSession(t)
			s.stdin = feed
			s.server.Inject(test.fault)
			_, stderr := s.run(test.code, "sync", "-", "--settle-after", "1ms")
			contains(t, stderr, test.want...)
		})
	}
	t.Run("reading", func(t *testing.T) {
		s := newSession(t)
		s.stdin = feed
		s.server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 403})
		_, stderr := s.run(exitError, "sync", "-")
		contains(t, stderr, "403", "stock: not changed")
	})
	t.Run("bad feed", func(t *testing.T) {
		s := newSession(t)
		s.stdin = feed + "hat,here,many\n"
		_, stderr := s.run(exitError, "sync", "-")
		contains(t, stderr, "line 5")
	})
}

// waitFor waits until the server has a request to write.
func (s *session) waitFor() {
	for s.writes() == 0 {
		time.Sleep(time.Millisecond)
	}
}

func TestStop(t *testing.T) {
	t.Run("a write under way ends well", func(t *testing.T) {
		s := newSession(t)
		s.server.SetLatency(200*time.Millisecond, 0)
		ctx, stop := context.WithCancel(t.Context())
		s.ctx = ctx
		go func() { s.waitFor(); stop() }()
		stdout, stderr := s.run(exitOK, "change", "122=-2")
		contains(t, stdout, "133")
		contains(t, stderr, "stopping when the writes under way have ended")
	})
	t.Run("the second cuts it off", func(t *testing.T) {
		s := newSession(t)
		s.server.SetLatency(time.Hour, 0)
		ctx, stop := context.WithCancel(t.Context())
		s.ctx = ctx
		go func() { s.waitFor(); stop(); close(s.cut) }()
		_, stderr := s.run(exitUnknown, "change", "122=-2")
		contains(t, stderr, "cut off, since the program was told twice to stop\n", "stock: unknown")
	})
	t.Run("before anything is written", func(t *testing.T) {
		s := newSession(t)
		ctx, stop := context.WithCancel(t.Context())
		stop()
		s.ctx = ctx
		_, stderr := s.run(exitRetry, "change", "122=-2")
		contains(t, stderr, "the program was told to stop", "stock: not changed", "next: run it again when you like")
		_, stderr = s.run(exitRetry, "list", "cap-navy")
		contains(t, stderr, "stop")
	})
	t.Run("sync", func(t *testing.T) {
		s := newSession(t)
		s.server.SetLatency(300*time.Millisecond, 0)
		ctx, stop := context.WithCancel(t.Context())
		s.ctx, s.stdin = ctx, feed
		go func() { s.waitFor(); stop() }()
		stdout, _ := s.run(exitPartly, "sync", "-", "--batch-size", "1", "--concurrency", "1")
		contains(t, stdout, "1 record changed, 1 right already, 1 not tried\n", "not sent, since the program was told to stop")
		if n := s.writes(); n != 1 {
			t.Errorf("%d writes", n)
		}
	})
	t.Run("sync of many", func(t *testing.T) {
		records, _ := many(5000)
		s := newSession(t, records...)
		s.server.SetLatency(2*time.Millisecond, 0)
		s.stdin = feedOf(records, 11) + "hat,w,1\n"
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Times: 1})
		ctx, stop := context.WithCancel(t.Context())
		s.ctx = ctx
		go func() { s.waitFor(); stop() }()
		stdout, _ := s.run(exitUnknown, "sync", "-", "--batch-size", "2", "--concurrency", "1", "--settle-after", "1h")
		contains(t, stdout, "hat       1  not found", "2 unknown\n", " records not tried: not sent, since the program was told to stop\n")
		var rows, unknown int
		for line := range strings.Lines(stdout) {
			rows++
			if strings.Contains(line, "  unknown  ") {
				unknown++
			}
		}
		if unknown != 2 || rows != 7 { // a heading, 3 records, an empty line and 2 counts
			t.Errorf("%d unknown of %d rows:\n%.2000s", unknown, rows, stdout)
		}
	})
	t.Run("sync does not settle", func(t *testing.T) {
		s := newSession(t)
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter})
		ctx, stop := context.WithCancel(t.Context())
		s.ctx, s.stdin = ctx, feed
		go func() { s.waitFor(); stop() }()
		s.run(exitUnknown, "sync", "-", "--settle-after", "1h")
	})
	t.Run("many", func(t *testing.T) {
		records, items := many(6000)
		s := newSession(t, records...)
		s.server.SetLatency(200*time.Millisecond, 0)
		ctx, stop := context.WithCancel(t.Context())
		s.ctx = ctx
		go func() { s.waitFor(); stop() }()
		_, stderr := s.run(exitPartly, append([]string{"change"}, items...)...)
		n := s.writes()
		contains(t, stderr, fmt.Sprintf("of 6000 items %d applied, %d not applied, 0 unknown", n*500, 6000-n*500),
			"not sent, since the program was told to stop")
		if n > 4 {
			t.Errorf("%d writes, want at most those under way at the stop", n)
		}
	})
	t.Run("many, cut off by the second", func(t *testing.T) {
		records, items := many(6000)
		s := newSession(t, records...)
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Slow, Delay: time.Hour})
		ctx, stop := context.WithCancel(t.Context())
		s.ctx = ctx
		go func() { s.waitFor(); stop(); close(s.cut) }()
		_, stderr := s.run(exitUnknown, append([]string{"change"}, items...)...)
		contains(t, stderr, " 0 applied", "cut off, since the program was told twice to stop")
	})
}

// TestWaiting checks that the progress line says when a run waits for the service.
// Without a terminal a line of its own says it, and with --json there is none.
func TestWaiting(t *testing.T) {
	const waiting = `waiting for the service since \d\d:\d\d:\d\d \(503 Service Unavailable\)`
	records, items := many(6000)
	for _, test := range []struct {
		terminal bool
		args     []string
		want     string
	}{
		{true, []string{"change"}, `\r\x1b\[Kwriting: \d+ of 6000 records, ` + waiting + `(\r|$)`},
		{false, []string{"change"}, `(?m)^` + waiting + `$`},
		{false, []string{"--json", "change"}, ``},
		{true, []string{"sync", "-", "--settle-after", "1ms"}, `\r\x1b\[Kwriting: \d+ of 6000 records, ` + waiting + `(\r|$)`},
	} {
		s := newSession(t, records...)
		s.terminal = test.terminal
		code, args := exitUnknown, append(slices.Clone(test.args), items...)
		if slices.Contains(test.args, "sync") {
			code, args = exitOK, test.args // sync settles unknown outcomes by reading
			s.stdin = feedOf(records, 11)
		}
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 503, Times: 4})
		_, stderr := s.run(code, args...)
		if found := regexp.MustCompile(test.want).MatchString(stderr); !found {
			t.Errorf("%q: no %s in:\n%.2000q", test.args, test.want, stderr)
		}
		if test.want == "" && strings.Contains(stderr, "waiting") {
			t.Errorf("waiting beside JSON: %.2000s", stderr)
		}
	}
}

func TestCause(t *testing.T) {
	for want, err := range map[string]error{
		"an unreadable response": &oakra.Error{StatusCode: 200, Err: oakra.ErrBadResponse},
		"502 Bad Gateway":        fmt.Errorf("reading: %w", &oakra.Error{StatusCode: 502, Err: oakra.ErrServer}),
		"no connection":          &oakra.Error{Err: fmt.Errorf("%w: dialing", oakra.ErrUnreachable)},
		"no response":            &oakra.Error{Err: io.EOF},
	} {
		equal(t, "the cause", cause(err), want)
	}
}

func TestProgress(t *testing.T) {
	s := newSession(t)
	s.server.SetLatency(20*time.Millisecond, 0)
	s.stdin = feed
	s.terminal = true
	_, stderr := s.run(exitOK, "sync", "-", "--batch-size", "1", "--concurrency", "1")
	contains(t, stderr, "reading: 3 records ...", "writing: 2 records ...", "50%", "records/s")
	s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Times: 1})
	s.server.SetRecords(catalogue()...)
	_, stderr = s.run(exitOK, "sync", "-", "--settle-after", "1ms")
	contains(t, stderr, "unknown, to be read again after 1ms: 2 records ...")
	if !strings.HasSuffix(stderr, eraseLine) {
		t.Errorf("the bar is left: %q", stderr)
	}

	for _, test := range []struct {
		terminal bool
		flag     string
	}{{false, "--timeout=9s"}, {true, "--json"}} {
		s.server.SetRecords(catalogue()...)
		s.terminal = test.terminal
		_, stderr = s.run(exitOK, "sync", "-", "--batch-size", "1", test.flag)
		equal(t, "stderr", stderr, "")
	}
	s.server.SetRecords(catalogue()...)
	s.terminal = true
	_, stderr = s.run(exitOK, "sync", "-", "--verbose")
	contains(t, stderr, "op=stock.change")
	if strings.Contains(stderr, "%") {
		t.Errorf("a bar between the log's lines:\n%s", stderr)
	}
}

// TestServe runs the commands that serve prints.
func TestServe(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("no curl here")
	}
	if runtime.GOOS == "windows" {
		t.Skip("the commands are for a shell of Unix")
	}
	for _, flags := range [][]string{nil, {"--json"}} {
		var out output
		ctx, stop := context.WithCancel(t.Context())
		code := make(chan int)
		go func() {
			code <- run(ctx, process{
				args:   append([]string{"serve", "--addr", "127.0.0.1:0", "--key", "a-$key"}, flags...),
				stdout: &out, stderr: &out, getenv: func(string) string { return "" }, isTerminal: func(io.Writer) bool { return false },
			})
		}()
		if flags == nil {
			waitUntil(t, &out, "Requests:")
			commands := regexp.MustCompile(`(?m)^  curl (.*\\\n)*.*$`).FindAllString(out.String(), -1)
			if len(commands) != 5 {
				t.Fatalf("%d commands in:\n%s", len(commands), &out)
			}
			for i, want := range []string{`"quantity":135`, `"quantity":150`, `"quantity":170`, `"status":"canceled"`, `"tracking_number":"TH0000000001"`} {
				// The commands are pasted into a shell. (Writing to it also orders the
				// requests after the start of the server for the race detector.)
				command := exec.CommandContext(t.Context(), "sh")
				command.Stdin = strings.NewReader(strings.Replace(commands[i], "curl", curl+" --silent --show-error --noproxy '*'", 1))
				response, err := command.CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, response)
				}
				contains(t, string(response), want)
			}
			waitUntil(t, &out, "200  GET   /api/v1/stock/stock-records/?location_id=warehouse-1&sku=shirt-blue-m&sku=shirt-green-m\n",
				"200  POST  /api/v1/stock/stock-records/update/  123: 142 to 150\n",
				"200  POST  /api/v1/stock/stock-records/change/  123: 150 to 170\n",
				"200  POST  /api/v1/sales/cancel/  100001235: pending to canceled\n",
				"200  POST  /api/v1/fulfillment/shipping/init/  100001234: pending to in_fulfillment\n")
		} else {
			waitUntil(t, &out, `"key": "a-$key"`, `"url": "http://127.0.0.1:`)
		}
		stop()
		if got := <-code; got != exitOK {
			t.Errorf("exit code %d", got)
		}
	}
}

func waitUntil(t *testing.T, out *output, parts ...string) {
	t.Helper()
	for _, part := range parts {
		for end := time.Now().Add(time.Minute); !strings.Contains(out.String(), part); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("no %q in:\n%s", part, out)
			}
		}
	}
}

// TestReadme runs the commands of the README, and compares what they print.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```console\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(blocks) < 4 {
		t.Fatalf("%d blocks", len(blocks))
	}
	for _, block := range blocks {
		prompt, want, _ := strings.Cut(string(block[1]), "\n")
		args, ok := strings.CutPrefix(prompt, "$ go run ./cmd/stockctl ")
		if !ok {
			t.Errorf("%q is no command to run", prompt)
			continue
		}
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			var out output
			code := run(t.Context(), process{
				args: strings.Fields(args), stdout: &out, stderr: &out,
				getenv: func(string) string { return "" }, isTerminal: func(io.Writer) bool { return false },
			})
			if code != exitOK { // go run prints the exit status
				fmt.Fprintf(&out, "exit status %d\n", code)
			}
			equal(t, "output", out.String(), want)
		})
	}
}
