// Benchmarks compares this library with other ways to make the same calls: how fast it
// is, what it reports in a storm of failures, and how bulk runs get through a bad day.
// See README.md.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const usage = `Usage: go run ./benchmarks [flags] [command]

Commands:
  speed    time calls beside other clients; the default
  compare  count what several clients report and do in the same storm of failures
  bulk     run bulk calls and syncs through outages, resets, a stop and a limit

Flags:
`

// options holds the values of the command line.
type options struct {
	command     string
	out         string
	pairs       int
	quick, draw bool
}

// parse reads the command line. It prints the help if it is requested, or what is wrong
// with the command line.
func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("benchmarks", flag.ContinueOnError)
	flags.StringVar(&o.out, "out", "", "speed, compare: directory for data files and pictures (default that of this module; none with -quick); the READMEs stay as they are")
	flags.IntVar(&o.pairs, "pairs", 0, "speed: how many times each client is measured at each setup, 25 or more (default 61; 25 with -quick)")
	flags.BoolVar(&o.quick, "quick", false, "speed: fewer and shorter measurements, in about a minute")
	flags.BoolVar(&o.draw, "draw", false, "speed, compare: measure nothing, and print and draw the data file that is there")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.command = "speed"
	if flags.NArg() > 0 {
		o.command = flags.Arg(0)
	}
	if flags.NArg() > 1 || !slices.Contains([]string{"speed", "compare", "bulk"}, o.command) {
		flags.Usage()
		return o, errors.New("not a command: " + strings.Join(flags.Args(), " "))
	}
	return o, nil
}

func main() {
	o, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(2)
	case o.command == "bulk":
		err = bulkOnBadDay()
	case o.command == "compare":
		err = o.compare()
	default:
		err = o.speed()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

// logger returns a function that logs to standard error what was done, and when.
func logger() func(format string, args ...any) {
	started := time.Now()
	return func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%4.0fs  %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
	}
}

// dir returns the directory for the files.
func (o options) dir() string {
	if o.out != "" {
		return o.out
	}
	return moduleDir()
}

// moduleDir returns the path of this module's directory, relative to the root of the
// repository or to the module itself.
func moduleDir() string {
	if _, err := os.Stat("benchmarks/go.mod"); err == nil {
		return "benchmarks"
	}
	return "."
}

// refresh writes the blocks into their files, unless the data is written to another
// directory.
func (o options) refresh(blocks []block) error {
	if o.out != "" {
		return nil
	}
	for _, b := range blocks {
		if err := b.refresh(os.Stdout, moduleDir()); err != nil {
			return err
		}
	}
	return nil
}

const (
	resultsFile    = "results.json"
	comparisonFile = "compare.json"
)

// bulkOnBadDay runs the command bulk.
func bulkOnBadDay() error {
	all, err := fullBadDay().run(logger())
	if err != nil {
		return err
	}
	return printMeasured(os.Stdout, all)
}

// compare runs the command compare.
func (o options) compare() error {
	file := filepath.Join(o.dir(), comparisonFile)
	var c comparison
	var err error
	if o.draw {
		err = readJSON(file, &c)
	} else if c, err = compareInStorm(2000, 1, logger()); err == nil {
		err = writeJSON(file, c)
	}
	if err != nil {
		return err
	}
	c.print(os.Stdout)
	return o.refresh(c.blocks())
}

// speed runs the command speed.
func (o options) speed() error {
	file := filepath.Join(o.dir(), resultsFile)
	var r results
	var err error
	if o.draw {
		err = readJSON(file, &r)
	} else {
		p := full()
		if o.quick {
			p = short()
		}
		if o.pairs > 0 {
			p.pairs = o.pairs
		}
		r, err = p.run(logger())
	}
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	r.printBounds(os.Stdout)
	if !o.draw {
		if o.quick && o.out == "" {
			return nil
		}
		if err := writeJSON(file, r); err != nil {
			return err
		}
	}
	if err := drawAll(o.dir(), r); err != nil {
		return err
	}
	return o.refresh(r.blocks())
}

// plan says what the command speed measures.
type plan struct {
	pairs int
	block time.Duration // time that one client runs over memory; twice as long over loopback
	sizes []int
	bulk  int // number of updates
}

func full() plan {
	return plan{pairs: 61, block: 20 * time.Millisecond, sizes: []int{1, 100, 1000, 10_000}, bulk: 100_000}
}

func short() plan {
	return plan{pairs: 25, block: 5 * time.Millisecond, sizes: []int{1, 100, 10_000}, bulk: 10_000}
}

func (p plan) run(log func(string, ...any)) (results, error) {
	r := results{
		Machine:  thisMachine(),
		Versions: versions(),
		Pairs:    p.pairs,
	}
	server, stop, err := startServer(newHandler(p.sizes))
	if err != nil {
		return r, err
	}
	defer stop()
	measure := func(pairs int, s setup, only ...string) error {
		block := p.block
		if s.Transport == overLoopback {
			block *= 2 // the scheduler adds variance
		}
		t, err := timeClients(s, server, pairs, block, only...)
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
					return r, err
				}
			}
		}
	}
	// Responses without Content-Length and very long ones are measured with this library
	// and net/http only.
	for _, transport := range []string{overMemory, overLoopback} {
		for _, op := range []string{opList, opUpdate} {
			for _, n := range p.sizes {
				if err := measure(p.pairs, setup{op, transport, false, n}, nameOakra, nameNetHTTP); err != nil {
					return r, err
				}
			}
		}
	}
	for _, length := range []bool{true, false} {
		if err := measure(5, setup{opList, overMemory, length, 100_000}, nameOakra, nameNetHTTP); err != nil {
			return r, err
		}
	}
	r.Bulk, err = timeBulk(server, p.bulk, []int{100, 500, 1000, 5000}, []int{1, 4, 16}, log)
	return r, err
}
