package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/oakra/oakra-go"
)

// results is the data file of the command speed. The tables and pictures are generated
// from it.
type results struct {
	Machine  machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
	Pairs    int               `json:"pairs"`
	Setups   []timedSetup      `json:"setups"`
	Bulk     *bulkResult       `json:"bulk"`
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

// versions returns the versions of the clients that this program was built with.
func versions() map[string]string {
	of := map[string]string{nameOakra: oakra.Version}
	names := map[string]string{
		"github.com/cenkalti/backoff/v5":        nameBackoff,
		"github.com/hashicorp/go-retryablehttp": nameRetryable,
		"github.com/go-resty/resty/v2":          nameResty,
		"github.com/oapi-codegen/runtime":       nameOAPI + " runtime",
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

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// of returns the measurement of a client.
func (r results) of(s setup, client string) (timed, bool) {
	for _, t := range r.Setups {
		if t.setup == s {
			for _, c := range t.Clients {
				if c.Client == client {
					return c, true
				}
			}
		}
	}
	return timed{}, false
}

// print writes all tables.
func (r results) print(w io.Writer) {
	fmt.Fprintf(w, "%s/%s, %d CPUs, %s; %d interleaved pairs\n",
		r.Machine.OS, r.Machine.Arch, r.Machine.CPUs, r.Machine.Go, r.Pairs)
	names := make([]string, 0, len(r.Versions))
	for name := range r.Versions {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		names[i] += " " + r.Versions[name]
	}
	fmt.Fprintf(w, "%s\n", strings.Join(names, ", "))
	fmt.Fprintf(w, "×net/http: the median of the ratios of time to net/http's in the same pair, and its quartiles\n")

	for _, s := range r.Setups {
		fmt.Fprintf(w, "\n%s", s.setup)
		if s.Pairs != r.Pairs {
			fmt.Fprintf(w, " (%d pairs)", s.Pairs)
		}
		fmt.Fprintln(w)
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		head := "\ttime a call\t×net/http\tp25–p75\t"
		if s.Transport == overMemory {
			head += "allocs\tbytes\t"
		}
		fmt.Fprintln(table, head)
		for _, c := range s.Clients {
			fmt.Fprintf(table, "%s\t%v\t%.3f\t%.3f–%.3f\t", c.Client, time.Duration(c.Nanos).Round(roundTo(c.Nanos)), c.Ratio.P50, c.Ratio.P25, c.Ratio.P75)
			if s.Transport == overMemory {
				fmt.Fprintf(table, "%.0f\t%s\t", c.Allocs, bytesText(c.Bytes))
			}
			fmt.Fprintln(table)
		}
		table.Flush()
	}
	if b := r.Bulk; b != nil {
		fmt.Fprintf(w, "\n%s updates by UpdateAll, server of %g ms + %g µs a record; one at a time from %d requests\n",
			thousands(b.Updates), b.LatencyMS, b.RecordUS, b.OneByOne.Measured)
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(table, "batch size\tat once\tseconds\ttimes as fast\t\n")
		fmt.Fprintf(table, "1\t1\t%.0f\t1\t\n", b.OneByOne.Seconds)
		for _, run := range b.Runs {
			fmt.Fprintf(table, "%s\t%d\t%.2f\t%.0f\t\n", thousands(run.BatchSize), run.Concurrency, run.Seconds, b.OneByOne.Seconds/run.Seconds)
		}
		table.Flush()
	}
}

func roundTo(nanos float64) time.Duration {
	if nanos < 1e6 {
		return 10 * time.Nanosecond
	}
	return 10 * time.Microsecond
}

func bytesText(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.2f MB", n/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.1f kB", n/1e3)
	}
	return fmt.Sprintf("%.0f B", n)
}

// bound is a limit that this library promises to keep.
type bound struct {
	setup
	what string // "time", "allocs", or "bytes"
	most float64
}

// bounds returns the bounds with Content-Length, and the same without it, which are
// twice as high.
func bounds() []bound {
	var all []bound
	add := func(op, transport string, n int, what string, most float64) {
		all = append(all, bound{setup{op, transport, true, n}, what, most})
	}
	for _, op := range []string{opList, opUpdate, opChange} {
		add(op, overLoopback, 1, "time", 1.05)
		add(op, overMemory, 1, "time", 1.0)
	}
	for _, op := range []string{opList, opUpdate} {
		for _, transport := range []string{overMemory, overLoopback} {
			add(op, transport, 100, "time", 0.5)
			switch op {
			case opList:
				add(op, transport, 10_000, "time", 0.13)
			case opUpdate:
				add(op, transport, 10_000, "time", 0.15)
			}
		}
	}
	add(opList, overMemory, 10_000, "allocs", 150)
	add(opList, overMemory, 10_000, "bytes", 0.75e6)
	add(opList, overMemory, 100_000, "first call's bytes", 20e6)
	for _, b := range all {
		b.Length, b.most = false, 2*b.most
		all = append(all, b)
	}
	return all
}

// printBounds writes the bounds next to the measured values.
func (r results) printBounds(w io.Writer) {
	fmt.Fprintf(w, "\nWhat is promised of %s\n", nameOakra)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, b := range bounds() {
		c, ok := r.of(b.setup, nameOakra)
		if !ok {
			continue
		}
		measured, text := 0.0, func(x float64) string { return fmt.Sprintf("%.3f×", x) }
		switch b.what {
		case "time":
			measured = c.Ratio.P50
		case "allocs":
			measured, text = c.Allocs, func(x float64) string { return fmt.Sprintf("%.0f", x) }
		case "bytes":
			measured, text = c.Bytes, bytesText
		default:
			measured, text = c.Once, bytesText
		}
		verdict := "ok"
		if measured > b.most {
			verdict = "NOT ok"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\tat most %s\t%s\n", b.setup, b.what, text(measured), text(b.most), verdict)
	}
	table.Flush()
}
