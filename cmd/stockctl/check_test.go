package main

import (
	"slices"
	"testing"

	"github.com/oakra/oakra-go/oakratest"
)

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		name    string
		dialect oakratest.Dialect
		code    int
		want    []string
	}{
		{"whole requests", oakratest.Dialect{Newest: true}, exitOK, []string{"yes    rejected whole", "yes    accepted", "yes    1000000 is kept", "yes    136, want 136"}},
		{"negatives rejected", oakratest.Dialect{RejectNegative: true}, exitOK, []string{"a quantity below zero         yes    rejected"}},
		{"item by item", oakratest.Dialect{ItemByItem: true, RejectNegative: true}, exitRefused,
			[]string{"no     the other record of it was changed all the same, from 135 to 136", "set BulkOptions.NoSplit"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSession(t)
			s.server.SetDialect(test.dialect)
			before := s.server.Records()
			stdout, _ := s.run(test.code, "check", "shirt-blue-m@warehouse-1", "shirt-blue-m@warehouse-2", "--yes")
			contains(t, stdout, test.want...)
			if !slices.Equal(s.server.Records(), before) {
				t.Errorf("not restored: %v", s.server.Records())
			}
			if s.writes() == 0 {
				t.Error("nothing was written")
			}
		})
	}
}

func TestCheckAsks(t *testing.T) {
	s := newSession(t)
	for _, answer := range []string{"", "n\n", "yess\n"} {
		s.stdin = answer
		_, stderr := s.run(exitError, "check", "shirt-blue-m@warehouse-1", "cap-navy@warehouse-1")
		contains(t, stderr, "Continue? [y/N]", "not checked")
	}
	s.run(exitError, "check", "shirt-blue-m@warehouse-1", "cap-navy@warehouse-1", "--json")
	s.run(exitRefused, "check", "shirt-blue-m@warehouse-1", "hat@warehouse-1", "--yes")
	s.run(exitError, "check", "122", "123", "--yes")
	if n := s.writes(); n != 0 {
		t.Errorf("%d writes", n)
	}
	s.stdin = "y\n"
	s.run(exitOK, "check", "shirt-blue-m@warehouse-1", "cap-navy@warehouse-1")
}

// TestCheckRestores: a test whose outcome is unknown ends check, which restores.
func TestCheckRestores(t *testing.T) {
	s := newSession(t)
	before := s.server.Records()
	s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Times: 1})
	_, stderr := s.run(exitUnknown, "check", "shirt-blue-m@warehouse-1", "cap-navy@warehouse-1", "--yes")
	contains(t, stderr, "a test failed, and the quantities were restored", "look whether shirt-blue-m@warehouse-1 still has 135")
	if !slices.Equal(s.server.Records(), before) {
		t.Errorf("not restored: %v", s.server.Records())
	}
	s.server.Inject(oakratest.Fault{Op: "stock.update", Kind: oakratest.Respond, Status: 403, Body: `{"detail": "No."}`})
	_, stderr = s.run(exitUnknown, "check", "shirt-blue-m@warehouse-1", "cap-navy@warehouse-1", "--yes")
	contains(t, stderr, "the quantities were not restored", "next: stockctl update 122=135 131=120")
}
