package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// tiny measures everything, and too little of it for its numbers to mean anything.
var tiny = plan{
	orderRounds: 3, addRounds: 1, addFor: 20 * time.Millisecond,
	drainRounds: 1, drained: 2000, drainedOneByOne: map[string]int{onSQLite: 50, onPostgres: 50},
	stormRecords: 60,
	settled:      []int{0, 1000}, settledRounds: 1, settledAdd: 200,
	accounts: []int{1, 3}, accountRounds: 1, accountChanges: 200,
	idle: 100 * time.Millisecond,
	seed: 1,
}

// Everything is measured on each database, and this outbox makes no record wrong.
func TestMeasure(t *testing.T) {
	r, err := tiny.measure(t.Context(), func(results) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range r.LeftOut {
		t.Logf("LEFT OUT: %s", left)
	}
	if len(r.Databases)+len(r.LeftOut) != len(engines) {
		t.Fatalf("%d databases", len(r.Databases))
	}
	for _, d := range r.Databases {
		for _, name := range []string{nameOutbox, nameRiver, nameByHand} {
			for _, m := range measures {
				if m.value != nil && !(m.value(d, name) > 0) {
					t.Errorf("%s: %s: %s was not measured", d.Database, name, m.label)
				}
			}
			if s := d.storm(name); s.Faults == 0 || s.Requests < s.Records || (s.Wrong > 0) != (name != nameOutbox) {
				t.Errorf("%s: %+v", d.Database, s)
			}
		}
		if n := d.drain(nameOutbox).Requests; n != 3 {
			t.Errorf("%s: %d writes for the changes of %d records", d.Database, n, drainItems)
		}
		if len(d.Settled) != 2 || d.Database == onPostgres && len(d.Accounts) != 2 {
			t.Errorf("%s: %+v, %+v", d.Database, d.Settled, d.Accounts)
		}
	}
	checkPicture(t, r.draw())
}

// The tables of outbox/README.md and the picture are those of results.json.
func TestPublished(t *testing.T) {
	r, err := readResults("results.json")
	if err != nil {
		t.Fatal(err)
	}
	picture, err := os.ReadFile("results.svg")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(picture, r.draw()) {
		t.Error("results.svg is not drawn from results.json: go run . -draw")
	}
	checkPicture(t, picture)
	text, err := os.ReadFile(readme("."))
	if os.IsNotExist(err) {
		t.Skip("outside of the repository outbox/README.md is not there")
	}
	if err != nil {
		t.Fatal(err)
	}
	want, err := r.fillIn(text)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, want) {
		t.Error("the tables of outbox/README.md are not those of results.json: go run . -draw")
	}
}

// What is published is a complete run.
func TestComplete(t *testing.T) {
	r, err := readResults("results.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Databases) != len(engines) {
		t.Errorf("it has %d databases", len(r.Databases))
	}
	for _, d := range r.Databases {
		if len(d.Settled) != len(full.settled) || d.drain(nameOutbox).Changes != full.drained {
			t.Errorf("%s: it is no complete run", d.Database)
		}
	}
}

func checkPicture(t *testing.T, svg []byte) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"NaN", "Inf"} {
		if bytes.Contains(svg, []byte(bad)) {
			t.Errorf("the picture has a number %s", bad)
		}
	}
}

func TestRounds(t *testing.T) {
	var order strings.Builder
	took := make([]timing, 3)
	err := rounds(3, 3, func(kind int) (time.Duration, error) {
		order.WriteByte('a' + byte(kind))
		return time.Duration(order.Len()) * time.Second, nil
	}, took)
	if err != nil || order.String() != "abcbcacababc" {
		t.Errorf("%s, %v", order.String(), err)
	}
	if want := (timing{6, 8, 10}); took[0][0] != want[0] || took[0][1] != want[1] || took[0][2] != want[2] {
		t.Errorf("%v, want %v without the first round", took[0], want)
	}
	failure := errors.New("no")
	if err := rounds(1, 1, func(int) (time.Duration, error) { return 0, failure }, took); !errors.Is(err, failure) {
		t.Error(err)
	}
}

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		values timing
		want   spread
	}{
		{timing{7}, spread{7, 7, 7}},
		{timing{2, 1}, spread{1.25, 1.5, 1.75}},
		{timing{5, 3, 1, 4, 2}, spread{2, 3, 4}},
		{timing{123456, 123456}, spread{123500, 123500, 123500}},
	} {
		if got := spreadOf(test.values); got != test.want {
			t.Errorf("%v: %v, want %v", test.values, got, test.want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for x, want := range map[float64]string{0.962: "0.96", 1.5: "1.5", 8.004: "8.0", 27.4: "27", 33333.3: "33,000", 150: "150"} {
		if got := short(x); got != want {
			t.Errorf("%v: %s, want %s", x, got, want)
		}
	}
}
