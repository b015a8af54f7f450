package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// publish writes the picture, and the tables of outbox/README.md.
func (r results) publish(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "results.svg"), r.draw(), 0o644); err != nil {
		return err
	}
	name := readme(dir)
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if text, err = r.fillIn(text); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.WriteFile(name, text, 0o644)
}

// readme is the file with the tables.
func readme(dir string) string { return filepath.Join(dir, "..", "..", "outbox", "README.md") }

// fillIn writes the tables into the text, between their markers.
func (r results) fillIn(text []byte) ([]byte, error) {
	for _, block := range []struct{ name, content string }{
		{"results", r.comparison()},
		{"scale", r.scale()},
	} {
		begin, end := fmt.Appendf(nil, "<!-- %s -->\n", block.name), fmt.Appendf(nil, "<!-- end of %s -->", block.name)
		before, rest, ok := bytes.Cut(text, begin)
		_, after, ok2 := bytes.Cut(rest, end)
		if !ok || !ok2 {
			return nil, fmt.Errorf("the markers of the block %q are missing", block.name)
		}
		text = []byte(string(before) + string(begin) + block.content + string(end) + string(after))
	}
	return text, nil
}

// comparison is the table of the three, and what is said about it.
func (r results) comparison() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("![%s](../benchmarks/outbox/results.svg)", r.alt())
	p("")
	p("| | | %s | %s | %s |", nameOutbox, nameRiver, nameByHand)
	p("|---|---|---|---|---|")
	for _, m := range measures {
		label := m.label
		for _, d := range r.newestFirst() {
			p("| %s | %s | %s | %s | %s |", label, d.Database, m.text(d, nameOutbox), m.text(d, nameRiver), m.text(d, nameByHand))
			label = ""
		}
	}
	p("")
	p("`AddTx` takes %s times as long as a plain second `INSERT` of an order line does in the", r.each(func(d measured) float64 { return d.order(nameOutbox).ToInsert.P50 }))
	p("same transaction. `Add` of single changes by %d callers records %s times as many", callers, r.each(func(d measured) float64 { return d.add(nameOutbox, 1).ToOne.P50 }))
	p("changes in a second as a transaction for each does. Draining the 100,000 changes takes")
	p("%s times as long as recording them did.", r.each(func(d measured) float64 { return d.drain(nameOutbox).ToRecord.P50 }))
	p("")
	p("River and the outbox written by hand send one request a change, %d at once; this outbox", workers)
	p("sends one at a time.")
	for _, d := range r.newestFirst() {
		if x := d.drain(nameRiver); x.Changes != drainAll {
			p("Their drain on %s is extrapolated from %s changes.", d.Database, thousands(x.Changes))
		}
	}
	s := r.Databases[0].storm(nameOutbox)
	p("In the storm %.0f%% of the writes fail in one of six ways; the same ones for", 7.0)
	p("all, counted in order of arrival. Each of the %s changes is of another record and a", thousands(s.Records))
	p("request of its own. The two others send again what is not proved to be applied; if they")
	p("did not, these changes would be lost instead.")
	p("")
	p("Measured in one run by [`benchmarks/outbox`](../benchmarks/outbox): %s, %s;", r.databases(), r.about())
	p("the machine was shared with other work, so the ratios mean more than the times.")
	return b.String()
}

// scale is the tables of how it scales.
func (r results) scale() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	var head, rule strings.Builder
	for _, s := range r.Databases[0].Settled {
		head.WriteString(" " + thousands(s.Changes) + " |")
		rule.WriteString("---|")
	}
	p("| settled changes in the table |%s", head.String())
	p("|---|%s", rule.String())
	for _, d := range r.newestFirst() {
		for _, row := range []struct {
			name string
			of   func(settled) spread
		}{{"`Add`", func(s settled) spread { return s.Add }}, {"`Drain`", func(s settled) spread { return s.Drain }}} {
			var cells strings.Builder
			for _, s := range d.Settled {
				fmt.Fprintf(&cells, " %.2f |", row.of(s).P50)
			}
			p("| %s: time of %s, as ratio to none |%s", d.Database, row.name, cells.String())
		}
	}
	for _, d := range r.Databases {
		if len(d.Accounts) == 0 {
			continue
		}
		var head, rule, rate, idle strings.Builder
		for _, a := range d.Accounts {
			fmt.Fprintf(&head, " %d |", a.Accounts)
			fmt.Fprintf(&rule, "---|")
			fmt.Fprintf(&rate, " %s |", about(a.PerSecond))
			fmt.Fprintf(&idle, " %.1f |", a.Idle)
		}
		p("")
		p("| accounts in one %s |%s", d.Database, head.String())
		p("|---|%s", rule.String())
		p("| changes recorded and applied in a second, of all accounts |%s", rate.String())
		p("| transactions a second of each account when idle |%s", idle.String())
	}
	return b.String()
}

// measure is a row of the table, and of the picture if it is compared.
type measure struct {
	label string
	title string // in the picture
	value func(d measured, name string) float64
	text  func(d measured, name string) string
	more  bool // more is better
}

var measures = []measure{
	{"an order's transaction, as ratio to one without", "Time of an order's transaction",
		func(d measured, name string) float64 { return d.order(name).ToAlone.P50 },
		func(d measured, name string) string { return fmt.Sprintf("%.2f", d.order(name).ToAlone.P50) }, false},
	{"durable changes in a second, recorded one each by 256 callers", "Time to record a change, 256 callers",
		func(d measured, name string) float64 { return 1 / d.add(name, 1).PerSecond },
		func(d measured, name string) string { return about(d.add(name, 1).PerSecond) }, false},
	{"the same, 20 each", "",
		func(d measured, name string) float64 { return 1 / d.add(name, manyCall).PerSecond },
		func(d measured, name string) string { return about(d.add(name, manyCall).PerSecond) }, false},
	{"100,000 changes of 1,000 records at 20 ms a request: requests", "Requests for 100,000 changes of 1,000 records",
		func(d measured, name string) float64 { return float64(d.drain(name).Requests) },
		func(d measured, name string) string { return thousands(d.drain(name).Requests) }, false},
	{"seconds until they are applied", "Time to apply them, 20 ms a request",
		func(d measured, name string) float64 { return d.drain(name).Seconds },
		func(d measured, name string) string { return seconds(d.drain(name).Seconds) }, false},
	{"wrong records after the same storm of faults", "",
		nil,
		func(d measured, name string) string {
			s := d.storm(name)
			return fmt.Sprintf("%d of %s", s.Wrong, thousands(s.Records))
		}, false},
}

// ratio is how many times as much as this outbox another needs.
func (m measure) ratio(d measured, name string) float64 {
	return m.value(d, name) / m.value(d, nameOutbox)
}

// alt is the picture in words.
func (r results) alt() string {
	var parts []string
	for _, d := range r.newestFirst() {
		text := "On " + d.Database + ", relative to this outbox:"
		for _, name := range []string{nameRiver, nameByHand} {
			text += " " + map[string]string{nameRiver: "River", nameByHand: "an outbox written by hand"}[name]
			for _, m := range measures {
				if m.title != "" {
					text += fmt.Sprintf(" %s %s times,", strings.ToLower(m.title[:1])+m.title[1:], short(m.ratio(d, name)))
				}
			}
			s := d.storm(name)
			text += fmt.Sprintf(" and %d of %s records wrong after a storm;", s.Wrong, thousands(s.Records))
		}
		s := d.storm(nameOutbox)
		parts = append(parts, text+fmt.Sprintf(" this outbox: %d wrong.", s.Wrong))
	}
	return strings.Join(parts, " ")
}

// newestFirst is the databases, PostgreSQL first.
func (r results) newestFirst() []measured {
	var all []measured
	for _, d := range r.Databases {
		all = append([]measured{d}, all...)
	}
	return all
}

// each is a number of each database in words.
func (r results) each(of func(measured) float64) string {
	var parts []string
	for _, d := range r.newestFirst() {
		parts = append(parts, fmt.Sprintf("%s (%s)", short(of(d)), d.Database))
	}
	return strings.Join(parts, " and ")
}

func (r results) databases() string {
	var parts []string
	for _, d := range r.newestFirst() {
		parts = append(parts, d.Database+" "+d.Version)
	}
	return strings.Join(parts, ", ")
}

func (r results) about() string {
	return fmt.Sprintf("River %s, %d CPUs, %s", strings.TrimPrefix(r.Versions[nameRiver], "v"), r.Machine.CPUs, r.Machine.Go)
}

func find[T any](all []T, is func(T) bool) (none T) {
	for _, x := range all {
		if is(x) {
			return x
		}
	}
	return none
}

func (d measured) order(name string) orderCost {
	return find(d.Orders, func(o orderCost) bool { return o.Name == name })
}

func (d measured) add(name string, size int) addRate {
	return find(d.Adds, func(a addRate) bool { return a.Name == name && a.Calls == size })
}

func (d measured) drain(name string) drained {
	return find(d.Drains, func(x drained) bool { return x.Name == name })
}

func (d measured) storm(name string) stormed {
	return find(d.Storms, func(s stormed) bool { return s.Name == name })
}

// thousands writes 100000 as 100,000.
func thousands(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// about rounds to two digits, and writes 23730 as 24,000.
func about(x float64) string {
	unit := 1.0
	for x/unit >= 100 {
		unit *= 10
	}
	return thousands(int(float64(int(x/unit+0.5)) * unit))
}

// short writes a number with two digits or so.
func short(x float64) string {
	if x < 9.95 {
		return strings.TrimSuffix(fmt.Sprintf("%.2f", x), "0")
	}
	return about(x)
}

func seconds(s float64) string {
	if s < 9.95 {
		return fmt.Sprintf("%.1f", s)
	}
	return about(s)
}
