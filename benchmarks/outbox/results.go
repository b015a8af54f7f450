package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	"github.com/oakra/oakra-go"
)

// results is the data file, from which the tables and the picture are made.
type results struct {
	Machine   machine           `json:"machine"`
	Versions  map[string]string `json:"versions"`
	Seed      uint64            `json:"seed"`
	LeftOut   []string          `json:"left_out,omitempty"`
	Databases []measured        `json:"databases"`
}

// measured is what was measured on one database.
type measured struct {
	Database string      `json:"database"`
	Version  string      `json:"version"`
	Load     []string    `json:"load_average"` // before and after
	Minutes  float64     `json:"minutes"`
	Orders   []orderCost `json:"orders"`
	Adds     []addRate   `json:"adds"`
	Drains   []drained   `json:"drains"`
	Storms   []stormed   `json:"storms"`
	Settled  []settled   `json:"settled"`
	Accounts []accounts  `json:"accounts,omitempty"`
}

type machine struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	CPUs int    `json:"cpus"`
	Go   string `json:"go"`
}

func thisMachine() machine {
	return machine{runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), runtime.Version()}
}

// loadAverage is how busy the machine is, "" where that is not known.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// versions of what is compared, as this program was built with them.
func versions() map[string]string {
	of := map[string]string{"oakra-go": oakra.Version}
	names := map[string]string{
		"github.com/riverqueue/river": nameRiver,
		"github.com/jackc/pgx/v5":     "pgx",
		"modernc.org/sqlite":          "modernc.org/sqlite",
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if name, ok := names[m.Path]; ok {
				of[name] = m.Version
			}
		}
	}
	return of
}

func readResults(file string) (results, error) {
	var r results
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}

func (r results) write(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// keep writes the results. If only one database is measured, those of the other in the
// file stay.
func (r results) keep(file, on string) error {
	if on != "" {
		old, err := readResults(file)
		if err != nil {
			return err
		}
		all := old.Databases
		for i := range all {
			if all[i].Database == on {
				all[i] = r.Databases[0]
			}
		}
		r.Databases = all
	}
	return r.write(file)
}

// print writes everything that was measured.
func (r results) print(w io.Writer) {
	fmt.Fprintf(w, "%s/%s, %d CPUs, %s; %v\n",
		r.Machine.OS, r.Machine.Arch, r.Machine.CPUs, r.Machine.Go, r.Versions)
	for _, left := range r.LeftOut {
		fmt.Fprintf(w, "LEFT OUT: %s\n", left)
	}
	for _, d := range r.Databases {
		fmt.Fprintf(w, "\n%s %s, load average %s\n", d.Database, d.Version, strings.Join(d.Load, " to "))
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, o := range d.Orders {
			fmt.Fprintf(table, "order\t%s\t%.2f ms\t%s × alone\t%s × with an INSERT\n", o.Name, o.Millis, o.ToAlone, o.ToInsert)
		}
		for _, a := range d.Adds {
			fmt.Fprintf(table, "add\t%s, calls of %d\t%.0f a second\t%s × one by one\n", a.Name, a.Calls, a.PerSecond, a.ToOne)
		}
		for _, x := range d.Drains {
			fmt.Fprintf(table, "drain\t%s, %d at once\t%.2f s\t%d requests\tfrom %d changes", x.Name, x.AtOnce, x.Seconds, x.Requests, x.Changes)
			if x.ToRecord != nil {
				fmt.Fprintf(table, "\t%s × recording", *x.ToRecord)
			}
			fmt.Fprintln(table)
		}
		for _, s := range d.Storms {
			fmt.Fprintf(table, "storm\t%s\t%d of %d records wrong\t%d requests, %d of them struck\n", s.Name, s.Wrong, s.Records, s.Requests, s.Faults)
		}
		for _, s := range d.Settled {
			fmt.Fprintf(table, "settled\t%d changes\tadd %s ×\tdrain %s ×\n", s.Changes, s.Add, s.Drain)
		}
		for _, a := range d.Accounts {
			fmt.Fprintf(table, "accounts\t%d\t%.0f changes a second\tidle: %.2f transactions a second each\n", a.Accounts, a.PerSecond, a.Idle)
		}
		table.Flush()
	}
	fmt.Fprintln(w, "\nWhat is promised")
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, b := range r.bounds() {
		verdict := "ok"
		if b.broken() {
			verdict = "NOT ok"
		}
		fmt.Fprintf(table, "%s\t%.4g\t%s %g\t%s\n", b.what, b.measured, map[bool]string{false: "at most", true: "at least"}[b.least], b.limit, verdict)
	}
	table.Flush()
}

func (s spread) String() string { return fmt.Sprintf("%.2f (%.2f–%.2f)", s.P50, s.P25, s.P75) }

// bound is what is promised of this outbox.
type bound struct {
	what     string
	measured float64
	limit    float64
	least    bool // the limit is the least, not the most
}

func (b bound) broken() bool {
	if b.least {
		return b.measured < b.limit
	}
	return b.measured > b.limit
}

func (r results) bounds() (all []bound) {
	for _, d := range r.Databases {
		for _, o := range d.Orders {
			if o.Name == nameOutbox {
				all = append(all, bound{d.Database + ": AddTx in an order's transaction, to a plain second INSERT", o.ToInsert.P50, 1.1, false})
			}
		}
		for _, a := range d.Adds {
			if a.Name == nameOutbox && a.Calls == 1 {
				all = append(all, bound{d.Database + ": Add of single changes by 256 callers, to a transaction each", a.ToOne.P50, 8, true})
			}
		}
		for _, x := range d.Drains {
			if x.Name == nameOutbox {
				all = append(all,
					bound{d.Database + ": writes for 100,000 changes of 1,000 records", float64(x.Requests), 3, false},
					bound{d.Database + ": draining them, to recording them", x.ToRecord.P50, 3, false})
			}
		}
		for _, s := range d.Storms {
			if s.Name == nameOutbox {
				all = append(all, bound{d.Database + ": wrong records after the storm", float64(s.Wrong), 0, false})
			}
		}
		for _, s := range d.Settled {
			if s.Changes > 0 {
				all = append(all,
					bound{fmt.Sprintf("%s: Add beside %d settled changes, to none", d.Database, s.Changes), s.Add.P50, 1.3, false},
					bound{fmt.Sprintf("%s: Drain beside %d settled changes, to none", d.Database, s.Changes), s.Drain.P50, 1.3, false})
			}
		}
		if len(d.Accounts) > 0 {
			a := d.Accounts[len(d.Accounts)-1] // those of PostgreSQL itself count least here
			all = append(all, bound{fmt.Sprintf("%s: transactions a second of each of %d idle accounts", d.Database, a.Accounts), a.Idle, 2, false})
		}
	}
	return all
}
