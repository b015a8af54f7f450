package main

import (
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

const checkRecords = "check shirt-blue-m@warehouse-1 cap-navy@warehouse-1"

// check runs the check command without a question.
func (s *session) check(wantCode int, flags string) (stdout, stderr string) {
	s.t.Helper()
	return s.run(wantCode, strings.Fields(checkRecords+" --yes --every 1ms "+flags)...)
}

// restored fails the test unless all records are as in the catalogue.
func (s *session) restored() {
	s.t.Helper()
	if records := s.server.Records(); !slices.Equal(records, catalogue()) {
		s.t.Errorf("not restored: %v", records)
	}
}

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		name    string
		dialect oakratest.Dialect
		code    int
		want    []string
	}{
		{"newest", oakratest.Dialect{Newest: true}, exitOK, []string{
			"list                          yes    GET /api/v1/stock/stock-records/\n",
			"shape of a list               yes    an array of records\n",
			"change                        yes    POST /api/v1/stock/stock-records/change/\n",
			"read after a write            yes    fresh\n",
			"update                        yes    POST /api/v1/stock/stock-records/update/\n",
			"a request with an unknown id  yes    rejected whole\n",
			"a quantity below zero         yes    accepted\n",
			"a large quantity              yes    1000000 is kept\n",
		}},
		{"other routes and shapes", oakratest.Dialect{Update: oakratest.UpdateExample, Change: oakratest.ChangeExample, ListObject: true}, exitOK, []string{
			"yes    an object with stock_records\n", "PATCH /api/v1/stock/stock-record/\n", "POST /api/v1/stock/stock-record/change/\n",
		}},
		{"negatives rejected", oakratest.Dialect{RejectNegative: true}, exitOK, []string{"a quantity below zero         yes    rejected\n"}},
		{"item by item", oakratest.Dialect{ItemByItem: true, RejectNegative: true}, exitRejected, []string{
			"no     the other record of it was changed all the same, from 135 to 136", "set BulkOptions.NoSplit",
		}},
		{"capped", oakratest.Dialect{MaxQuantity: 5000}, exitRejected, []string{
			"a large quantity              no     1000000 is capped at 5000     keep quantities at most 5000",
		}},
		{"stale", oakratest.Dialect{StaleReads: time.Second, ItemByItem: true}, exitRejected, []string{
			"read after a write            no     stale for up to ", "set --settle-after of sync",
			"no     the other record of it was changed all the same, from 135 to 136", // shown once a read sees the change
			"yes    accepted\n", "yes    1000000 is kept\n",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSession(t)
			s.server.SetDialect(test.dialect)
			stdout, _ := s.check(test.code, "")
			for i, want := range test.want { // the width of the columns depends on their content
				test.want[i] = regexp.MustCompile(" +").ReplaceAllString(want, " ")
			}
			contains(t, regexp.MustCompile(" +").ReplaceAllString(stdout, " "), test.want...)
			s.restored()
			if s.writes() == 0 {
				t.Error("nothing was written")
			}
		})
	}
}

func TestCheckAsks(t *testing.T) {
	s := newSession(t)
	asks := strings.Fields(checkRecords)
	for _, reply := range []string{"", "n\n", "yess\n"} {
		s.stdin = reply
		_, stderr := s.run(exitError, asks...)
		contains(t, stderr, "then sets them to 135 and 120 again", "Continue? [y/N]", "not confirmed; nothing was done")
	}
	s.run(exitError, strings.Fields(checkRecords+" --json")...)
	for want, args := range map[string]string{
		"no stock record: hat@warehouse-1":    "shirt-blue-m@warehouse-1 hat@warehouse-1",
		`"122": a SKU and a location`:         "122 123",
		"is given twice":                      "cap-navy@warehouse-1 cap-navy@warehouse-1",
		"has -3 units":                        "cap-navy@warehouse-1 scarf-red@warehouse-1",
		"--settle-after must be positive":     "cap-navy@warehouse-1 cap-navy@warehouse-2 --settle-after 0s",
		"--for and --every must not be negat": "cap-navy@warehouse-1 cap-navy@warehouse-2 --for=-1s",
	} {
		code := exitError
		if strings.HasPrefix(want, "no stock") {
			code = exitRejected
		}
		s.server.SetRecords(oakra.StockRecord{ID: 132, SKU: "scarf-red", LocationID: "warehouse-1", Quantity: -3})
		_, stderr := s.run(code, append([]string{"check", "--yes"}, strings.Fields(args)...)...)
		contains(t, stderr, want)
	}
	if n := s.writes(); n != 0 {
		t.Errorf("%d writes", n)
	}
	s.stdin = "y\n"
	s.run(exitOK, asks...)
}

// TestCheckRestores checks that the quantities are restored whatever ends the command,
// but not before a lost write has arrived. If that fails, the command prints them.
func TestCheckRestores(t *testing.T) {
	t.Run("after an error", func(t *testing.T) {
		s := newSession(t)
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Slow, Times: 1})
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 403, Body: `{"detail": "No."}`})
		stdout, stderr := s.check(exitError, "")
		contains(t, stdout, "read after a write", "update")
		contains(t, stderr, "a test failed, and the quantities were restored: POST /api/v1/stock/stock-records/change/: 403 Forbidden: No.\n")
		s.restored()
	})
	t.Run("after a write that lands late", func(t *testing.T) {
		s := newSession(t)
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ApplyLate, Delay: 20 * time.Millisecond, Times: 1})
		_, stderr := s.check(exitError, "--settle-after 500ms")
		contains(t, stderr, "a response was lost: waiting 500ms, since the write may still land\n", "a test failed, and the quantities were restored")
		applied := 0
		for _, r := range s.server.Requests() {
			applied += len(r.Applied)
		}
		if applied != 3 { // the late write, and two restored records
			t.Errorf("%d changes were applied", applied)
		}
		s.restored()
	})
	t.Run("after an outage", func(t *testing.T) {
		s := newSession(t)
		s.server.Inject(oakratest.Fault{Op: "stock.update", Kind: oakratest.Respond, Status: 503, Times: 9})
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Slow, Times: 1})
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 401})
		_, stderr := s.check(exitError, "--settle-after 1ms")
		contains(t, stderr, "the quantities are not restored yet: ", "503 Service Unavailable (4 attempts)\n")
		s.restored()
	})
	t.Run("after Ctrl-C", func(t *testing.T) {
		s := newSession(t)
		s.server.Inject(oakratest.Fault{Op: "stock.change", Delay: 200 * time.Millisecond, Times: 1})
		ctx, stop := context.WithCancel(t.Context())
		s.ctx = ctx
		go func() {
			_ = s.server.Wait(t.Context(), "stock.change")
			stop()
		}()
		_, stderr := s.check(exitRetry, "")
		contains(t, stderr, "stockctl: the quantities were restored: the program was told to stop", "next: run it again when you like\n")
		s.restored()
		if n := s.writes(); n != 3 {
			t.Errorf("%d writes, want the first test, and the restoring, which looks for its route", n)
		}
	})
	t.Run("not after the second Ctrl-C", func(t *testing.T) {
		s := newSession(t)
		s.server.Inject(oakratest.Fault{Op: "stock.update", Kind: oakratest.Slow, Delay: time.Hour})
		ctx, stop := context.WithCancel(t.Context())
		s.ctx = ctx
		go func() {
			_ = s.server.Wait(t.Context(), "stock.update")
			stop()
			close(s.cut)
		}()
		_, stderr := s.check(exitPartly, "--settle-after 1ms")
		contains(t, stderr, "the quantities were not restored: ",
			"; record 122, shirt-blue-m@warehouse-1, has 136 and should have 135; record 131, cap-navy@warehouse-1, has 120 and should have 120\n",
			"stock: partly changed\n", "next: stockctl update 122=135 131=120\n")
	})
	t.Run("not if it is rejected", func(t *testing.T) {
		s := newSession(t)
		s.server.Inject(oakratest.Fault{Op: "stock.update", Kind: oakratest.Respond, Status: 403, Body: `{"detail": "No."}`})
		_, stderr := s.check(exitPartly, "")
		contains(t, stderr, "a test failed: POST ", "the quantities were not restored: ", "403 Forbidden: No.", "has 136 and should have 135")
		s.server.Inject(oakratest.Fault{Op: "stock.list", Kind: oakratest.Slow, Times: 3})
		s.server.Inject(oakratest.Fault{Op: "stock.list", Kind: oakratest.Respond, Status: 403, Body: `{"detail": "No."}`})
		s.server.SetRecords(catalogue()...)
		_, stderr = s.check(exitUnknown, "")
		contains(t, stderr, "record 122, shirt-blue-m@warehouse-1, may have any quantity, since it cannot be read, and should have 135", "next: stockctl update 122=135 131=120\n")
	})
	t.Run("not if it is not kept", func(t *testing.T) {
		s := newSession(t)
		s.server.SetDialect(oakratest.Dialect{MaxQuantity: 130})
		_, stderr := s.check(exitPartly, "--settle-after 100ms")
		contains(t, stderr, "the quantities were not restored; record 122, shirt-blue-m@warehouse-1, has 130 and should have 135")
	})
}

// TestCheckFor goes on changing the records, through lost responses.
func TestCheckFor(t *testing.T) {
	for _, test := range []struct {
		name   string
		spoil  func(s *session)
		code   int
		result string
	}{
		{"nothing lost", func(*session) {}, exitOK, `^[1-9]\d* requests, 0 lost responses, all explained$`},
		{"all explained", func(s *session) {
			for _, kind := range []oakratest.FaultKind{oakratest.ResetAfter, oakratest.ResetBefore, oakratest.ApplyLate} {
				s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: kind, Delay: time.Millisecond, Times: 2})
			}
			s.server.Inject(oakratest.Fault{Op: "stock.list", Kind: oakratest.Respond, Status: 503, Times: 5}) // longer than one List tries
		}, exitOK, `^[1-9]\d* requests, 6 lost responses, all explained$`},
		{"another hand", func(s *session) {
			s.server.SetRecords(oakra.StockRecord{ID: 131, SKU: "cap-navy", LocationID: "warehouse-1", Quantity: 100})
		}, exitRejected, `^[1-9]\d* requests, 0 lost responses, 1 not explained, the first: at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d they had \[13[56] (99|10[01])\] instead of \[13[56] 12[01]\]$`},
		{"rejected", func(s *session) {
			s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 401})
		}, exitError, `^[1-9]\d* requests, 0 lost responses, all explained$`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSession(t)
			ctx, stop := context.WithCancel(t.Context())
			s.ctx = ctx
			waitForChanges := func(n int) { // waits for n changes of both records
				for t.Context().Err() == nil {
					changes := 0
					for _, r := range s.server.Requests() {
						if r.Op == "stock.change" && len(r.Applied) == 2 {
							changes++
						}
					}
					if changes >= n {
						return
					}
					time.Sleep(time.Millisecond)
				}
			}
			go func() {
				waitForChanges(1)
				test.spoil(s)
				if test.code != exitError {
					waitForChanges(20)
					stop()
				}
			}()
			stdout, _ := s.check(test.code, "--settle-after 300ms --for 24h --json")
			var d struct{ Result []finding }
			if err := json.Unmarshal([]byte(stdout), &d); err != nil || len(d.Result) != 9 {
				t.Fatalf("%v\n%s", err, stdout)
			}
			f := d.Result[8]
			if f.Holds != (test.code != exitRejected) || !strings.HasPrefix(f.Test, "changes for ") || !regexp.MustCompile(test.result).MatchString(f.Result) {
				t.Errorf("%+v", f)
			}
			s.restored()
		})
	}
}
