// Benchmarks compares this library with other ways to make the same calls: plain
// net/http, go-retryablehttp, resty, a client in the manner of go-github, and one
// that oapi-codegen generated. It prints tables, and writes results.json and the
// picture drawn from it, results.svg. See README.md.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func main() {
	out := flag.String("out", "", "directory to write results.json and results.svg into (default that of this module; none with -quick)")
	pairs := flag.Int("pairs", 0, "how many times each client is measured at each setup, 25 or more (default 61; 25 with -quick)")
	quick := flag.Bool("quick", false, "fewer and shorter measurements, in about a minute")
	draw := flag.Bool("draw", false, "measure nothing: print and draw the results.json that is there")
	flag.Parse()

	var err error
	if *draw {
		err = redraw(outDir(*out))
	} else {
		p := full()
		if *quick {
			p = short()
		}
		if *pairs > 0 {
			p.pairs = *pairs
		}
		if *out != "" || !*quick {
			p.out = outDir(*out)
		}
		err = p.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

// outDir is dir or, if it is empty, the directory of this module, seen from the
// root of the repository or from inside.
func outDir(dir string) string {
	if dir != "" {
		return dir
	}
	if _, err := os.Stat("benchmarks/go.mod"); err == nil {
		return "benchmarks"
	}
	return "."
}

// plan is what is measured.
type plan struct {
	pairs int
	block time.Duration // for which one client runs over memory; over loopback twice as long
	sizes []int
	bulk  int // updates
	out   string
}

func full() plan {
	return plan{pairs: 61, block: 20 * time.Millisecond, sizes: []int{1, 100, 1000, 10_000}, bulk: 100_000}
}

func short() plan {
	return plan{pairs: 25, block: 5 * time.Millisecond, sizes: []int{1, 100, 10_000}, bulk: 10_000}
}

func (p plan) run() error {
	started := time.Now()
	log := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%4.0fs  %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
	}
	server, stop, err := startServer(p.sizes)
	if err != nil {
		return err
	}
	defer stop()

	r := results{
		Machine:  thisMachine(),
		Versions: versions(),
		Pairs:    p.pairs,
	}
	measure := func(pairs int, s setup, only ...string) error {
		block := p.block
		if s.Transport == overLoopback {
			block *= 2 // the scheduler's part in it varies
		}
		t, err := compare(s, server, pairs, block, only...)
		if err == nil {
			r.Setups = append(r.Setups, t)
			log("%s", s)
		}
		return err
	}
	for _, transport := range []string{overMemory, overLoopback} {
		for _, op := range []string{opList, opUpdate, opChange} {
			for _, n := range p.sizes {
				if op == opChange && n > 1 {
					break
				}
				if err := measure(p.pairs, setup{op, transport, true, n}); err != nil {
					return err
				}
			}
		}
	}
	// Without Content-Length, and a very long answer: this library alone, beside
	// net/http.
	for _, transport := range []string{overMemory, overLoopback} {
		for _, op := range []string{opList, opUpdate} {
			for _, n := range p.sizes {
				if err := measure(p.pairs, setup{op, transport, false, n}, nameOakra, nameNetHTTP); err != nil {
					return err
				}
			}
		}
	}
	for _, length := range []bool{true, false} {
		if err := measure(5, setup{opList, overMemory, length, 100_000}, nameOakra, nameNetHTTP); err != nil {
			return err
		}
	}
	r.Bulk, err = compareBulk(server, p.bulk, []int{100, 500, 1000, 5000}, []int{1, 4, 16}, log)
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	r.printBounds(os.Stdout)
	if p.out == "" {
		return nil
	}
	if err := r.write(filepath.Join(p.out, "results.json")); err != nil {
		return err
	}
	return drawFile(p.out)
}

// redraw prints and draws the results that are in dir.
func redraw(dir string) error {
	r, err := readResults(filepath.Join(dir, "results.json"))
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	r.printBounds(os.Stdout)
	return drawFile(dir)
}

// drawFile draws the picture from the data file alone.
func drawFile(dir string) error {
	r, err := readResults(filepath.Join(dir, "results.json"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "results.svg"), drawSVG(r), 0o644)
}
