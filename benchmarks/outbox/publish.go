package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	fmt.Fprintf(&b, "![%s](../benchmarks/outbox/results.svg)\n\n", r.alt())
	fmt.Fprintf(&b, "| | | %s | %s | %s |\n|---|---|---|---|---|\n", nameOutbox, nameRiver, nameByHand)
	for _, m := range measures {
		label := m.label
		for _, d := range r.postgresFirst() {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", label, d.Database, m.text(d, nameOutbox), m.text(d, nameRiver), m.text(d, nameByHand))
			label = ""
		}
	}
	paragraph(&b, "The transaction of an order with `AddTx` takes %s times as long as one with a plain second `INSERT`, of an order line. `Add` of single changes by %d callers records %s times as many changes in a second as a transaction for each. Draining 100,000 changes takes %s times as long as recording them, in calls of 500.",
		r.each(func(d measured) float64 { return d.order(nameOutbox).ToInsert.P50 }), callers,
		r.each(func(d measured) float64 { return d.add(nameOutbox, 1).ToOne.P50 }),
		r.each(func(d measured) float64 { return d.drain(nameOutbox).ToRecord.P50 }))
	text := fmt.Sprintf("River and the outbox written by hand send one request a change, %d at once; this outbox sends one at a time.", workers)
	for _, d := range r.postgresFirst() {
		if x := d.drain(nameRiver); x.Changes != drainAll {
			text += fmt.Sprintf(" Their drain on %s was measured with %s changes and is extrapolated.", d.Database, thousands(x.Changes))
		}
	}
	paragraph(&b, "%s", text)
	paragraph(&b, "In the storm some 7 of 100 writes fail, in six ways, such as a reset after the write was applied. The same ones fail for all, counted in order of arrival, and each of the %s changes is in a request of its own. River and the outbox written by hand send again what is not proved to be applied, so some changes count twice; if they did not, others would be lost.",
		thousands(r.Databases[0].storm(nameOutbox).Records))
	paragraph(&b, "Measured by [`benchmarks/outbox`](../benchmarks/outbox) in one run on each database: %s, River %s, %s, on %d CPUs that were shared with other work, so the ratios mean more than the times.",
		r.databases(), strings.TrimPrefix(r.Versions[nameRiver], "v"), r.Machine.Go, r.Machine.CPUs)
	return b.String()
}

// paragraph writes a paragraph in lines of some 90 characters.
func paragraph(b *strings.Builder, format string, args ...any) {
	length := 0
	for word := range strings.FieldsSeq(fmt.Sprintf(format, args...)) {
		switch {
		case length == 0 || length+1+len(word) > 90:
			b.WriteString("\n" + word)
			length = len(word)
		default:
			b.WriteString(" " + word)
			length += 1 + len(word)
		}
	}
	b.WriteString("\n")
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
	for _, d := range r.postgresFirst() {
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
		var head, rule, rate strings.Builder
		for _, a := range d.Accounts {
			fmt.Fprintf(&head, " %d |", a.Accounts)
			fmt.Fprintf(&rule, "---|")
			fmt.Fprintf(&rate, " %s |", about(a.PerSecond))
		}
		p("")
		p("| accounts in one %s |%s", d.Database, head.String())
		p("|---|%s", rule.String())
		p("| changes recorded and applied in a second, of all accounts |%s", rate.String())
		most := d.Accounts[len(d.Accounts)-1]
		paragraph(&b, "When idle, each of the %d accounts makes %s transactions a second, those of PostgreSQL itself included.", most.Accounts, short(most.Idle))
	}
	return b.String()
}

// measure is a row of the table, and of the picture if it has a title there.
type measure struct {
	label string
	title string
	alt   string
	value func(d measured, name string) float64 // less is better
	text  func(d measured, name string) string
}

var measures = []measure{
	{
		label: "transaction of an order, relative to one without",
		title: "Time of an order's transaction",
		alt:   "as long for an order's transaction",
		value: func(d measured, name string) float64 { return d.order(name).ToAlone.P50 },
		text:  func(d measured, name string) string { return fmt.Sprintf("%.2f", d.order(name).ToAlone.P50) },
	},
	{
		label: "durable changes a second, 256 callers, one each",
		title: "Time to record a change, 256 callers",
		alt:   "as long to record a change",
		value: func(d measured, name string) float64 { return 1 / d.add(name, 1).PerSecond },
		text:  func(d measured, name string) string { return about(d.add(name, 1).PerSecond) },
	},
	{
		label: "durable changes a second, 256 callers, 20 each",
		value: func(d measured, name string) float64 { return 1 / d.add(name, manyCall).PerSecond },
		text:  func(d measured, name string) string { return about(d.add(name, manyCall).PerSecond) },
	},
	{
		label: "requests for 100,000 changes of 1,000 records",
		title: "Requests for 100,000 changes, 1,000 records",
		alt:   "as many requests",
		value: func(d measured, name string) float64 { return float64(d.drain(name).Requests) },
		text:  func(d measured, name string) string { return thousands(d.drain(name).Requests) },
	},
	{
		label: "seconds to apply them, at 20 ms a request",
		title: "Time to apply them, at 20 ms a request",
		alt:   "as long to apply 100,000 changes",
		value: func(d measured, name string) float64 { return d.drain(name).Seconds },
		text:  func(d measured, name string) string { return strings.TrimSuffix(short(d.drain(name).Seconds), ".0") },
	},
	{
		label: "wrong records after the same storm of faults",
		text: func(d measured, name string) string {
			s := d.storm(name)
			return fmt.Sprintf("%d of %s", s.Wrong, thousands(s.Records))
		},
	},
}

// ratio is how many times as much as this outbox another needs.
func (m measure) ratio(d measured, name string) float64 {
	return m.value(d, name) / m.value(d, nameOutbox)
}

// alt is the picture in words.
func (r results) alt() string {
	var parts []string
	for _, d := range r.postgresFirst() {
		text := "On " + d.Database + ", relative to this outbox,"
		for _, other := range []struct{ name, text string }{{nameRiver, " River needs"}, {nameByHand, " an outbox written by hand"}} {
			text += other.text
			for _, m := range measures {
				if m.title != "" {
					text += fmt.Sprintf(" %s times %s,", short(m.ratio(d, other.name)), m.alt)
				}
			}
			text += fmt.Sprintf(" and has %d wrong records after a storm;", d.storm(other.name).Wrong)
		}
		parts = append(parts, text+fmt.Sprintf(" this outbox has %d.", d.storm(nameOutbox).Wrong))
	}
	return strings.Join(parts, " ")
}

// postgresFirst is the databases in the order of the tables.
func (r results) postgresFirst() []measured {
	all := slices.Clone(r.Databases)
	slices.Reverse(all)
	return all
}

// each is a number of each database in words.
func (r results) each(of func(measured) float64) string {
	var parts []string
	for _, d := range r.postgresFirst() {
		parts = append(parts, fmt.Sprintf("%s (%s)", short(of(d)), d.Database))
	}
	return strings.Join(parts, " and ")
}

func (r results) databases() string {
	var parts []string
	for _, d := range r.postgresFirst() {
		parts = append(parts, fmt.Sprintf("%s %s at a load average of %s", d.Database, d.Version, strings.Join(d.Load, " to ")))
	}
	return strings.Join(parts, ", ")
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
