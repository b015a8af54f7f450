package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

const keyVariable = "OAKRA_APP_KEY"

const description = `Reads and writes the stock records of an Oakra shop, and cancels and ships its sales.

The app key comes from the environment variable ` + keyVariable + `, and from nowhere else: a flag would show it to everyone who lists the processes of this computer, and in the history of the shell.

Ctrl-C or SIGTERM stops after the writes that are under way, since one that is cut off may or may not have been applied; a second one cuts them off. Either way the report says what happened to each.

Exit codes: 0 done; 1 wrong usage, or another error that is no item's fault, such as a wrong key or address; 2 rejected, nothing changed; 3 nothing changed and the same command may succeed later; 4 partly applied; 5 unknown whether all of it was applied; 6 list: a SKU has no stock record.`

// commandLine has the flags and commands of the program.
type commandLine struct {
	BaseURL      string        `name:"base-url" placeholder:"URL" xor:"server" help:"Address of the API (default ${base_url})."`
	InsecureHTTP bool          `name:"insecure-http" help:"Permit a base URL of plain http to another computer; everyone on the way can read the app key."`
	Demo         bool          `xor:"server" help:"Use a fake server in this process, with a small catalogue; no app key is needed, and nothing is kept."`
	JSON         bool          `help:"Print one JSON object on stdout: exit_code, result and error."`
	Timeout      time.Duration `default:"30s" help:"How long one request may take, its response included."`
	Verbose      bool          `short:"v" help:"Log each request on stderr."`
	Version      versionFlag   `help:"Print the version, and do nothing else."`

	List   listCommand   `cmd:"" help:"Show stock records."`
	Update updateCommand `cmd:"" help:"Set quantities."`
	Change changeCommand `cmd:"" help:"Add to quantities, or deduct from them."`
	Sync   syncCommand   `cmd:"" help:"Make the stock what a CSV file says."`
	Sale   saleCommand   `cmd:"" help:"Cancel sales."`
	Ship   shipCommand   `cmd:"" help:"Start the shipping of sales."`
	Outbox outboxCommand `cmd:"" help:"Look after an outbox: what is pending, parked or halted."`
	Check  checkCommand  `cmd:"" help:"Test on two spare records what the library assumes of Oakra."`
	Serve  serveCommand  `cmd:"" help:"Run the fake server, to try curl commands on."`

	Completion completionCommand `cmd:"" help:"Print a script that completes commands and flags in a shell."`
}

// versionFlag prints the version and ends the program before its command is parsed.
type versionFlag bool

func (versionFlag) BeforeReset(k *kong.Kong) error {
	_, err := fmt.Fprintln(k.Stdout, "stockctl "+version())
	k.Exit(exitOK)
	return err
}

// version returns the version of the module if the program was installed as a module,
// and otherwise that of the library.
func version() string {
	if build, ok := debug.ReadBuildInfo(); ok && strings.HasPrefix(build.Main.Version, "v") {
		return build.Main.Version
	}
	return "v" + oakra.Version
}

// process holds what the operating system passes to the program.
type process struct {
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	isTerminal     func(io.Writer) bool
	cut            <-chan struct{} // closed by the second Ctrl-C or SIGTERM
}

// run runs the program and returns its exit code. The context ctx ends with the first
// Ctrl-C or SIGTERM.
func run(ctx context.Context, p process) int {
	a := &app{process: p}
	err := a.parse()
	if err == nil && a.command != nil {
		err = a.command.Run(ctx, a)
	}
	a.close()
	return a.report(err)
}

// app is one run of the program.
type app struct {
	process
	flags   commandLine
	command command
	client  *oakra.Client
	demo    *oakratest.Server
	result  any // result of the command, for --json

	newClient func(more ...oakra.Option) (*oakra.Client, error) // makes another client like client
}

type command interface {
	Run(ctx context.Context, a *app) error
}

// parse reads the command line. The command stays nil if help was requested.
func (a *app) parse() error {
	helped := false
	parser, err := kong.New(&a.flags, append(a.kongOptions(), kong.Exit(func(int) { helped = true }))...)
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(a.args)
	switch {
	case helped:
		return nil
	case err != nil:
		a.flags.JSON = slices.Contains(a.args, "--json") // the flag may come after the mistake
		return plain("%v; see stockctl --help", err)
	case a.flags.Timeout <= 0:
		return plain("--timeout must be positive")
	}
	a.command = parsed.Selected().Target.Addr().Interface().(command)
	return nil
}

func (a *app) kongOptions() []kong.Option {
	return []kong.Option{
		kong.Name("stockctl"),
		kong.Description(description),
		kong.Vars{"base_url": oakra.DefaultBaseURL},
		kong.Writers(a.stdout, a.stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
	}
}

// connect makes the client.
func (a *app) connect(more ...oakra.Option) error {
	key, baseURL := a.getenv(keyVariable), a.flags.BaseURL
	if a.flags.Demo {
		a.demo = newDemo()
		key, baseURL = a.demo.Key, a.demo.URL
		a.note("demo: a fake server in this process; nothing real is read or changed")
	}
	options := []oakra.Option{
		oakra.WithUserAgent("stockctl/" + oakra.Version),
		oakra.WithAttemptTimeout(a.flags.Timeout),
		oakra.WithLimiter(gate{}),
	}
	if baseURL != "" {
		options = append(options, oakra.WithBaseURL(baseURL))
	}
	if a.flags.InsecureHTTP {
		options = append(options, oakra.WithInsecureHTTP())
	}
	if a.flags.Verbose {
		handler := slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelDebug})
		options = append(options, oakra.WithLogger(slog.New(handler)))
	}
	if key == "" {
		return plain("no app key: set the environment variable %s, or try --demo", keyVariable)
	}
	a.newClient = func(more ...oakra.Option) (*oakra.Client, error) {
		client, err := oakra.NewClient(key, slices.Concat(options, more)...)
		if err != nil {
			asFlags := strings.NewReplacer("WithBaseURL", "--base-url", "WithInsecureHTTP", "--insecure-http")
			return nil, plain("%s", asFlags.Replace(reason(err)))
		}
		return client, nil
	}
	var err error
	a.client, err = a.newClient(more...)
	return err
}

func (a *app) close() {
	if a.client != nil {
		a.client.CloseIdleConnections()
	}
	if a.demo != nil {
		a.demo.Close()
	}
}

var errStopped = fmt.Errorf("the program was told to stop: %w", context.Canceled)

// gate is a limiter that ends a call of one write before its next attempt, once the
// program was told to stop. Bulk runs use [oakra.BulkOptions].Stop instead.
type gate struct{}

type stoppedKey struct{}

func (gate) Wait(ctx context.Context) error {
	if stopped, ok := ctx.Value(stoppedKey{}).(context.Context); ok && stopped.Err() != nil {
		return errStopped
	}
	return nil
}

// writingOne is like writing, for one write. No attempt of the write begins after ctx
// has ended.
func (a *app) writingOne(ctx context.Context) (context.Context, context.CancelFunc) {
	writes, cancel := a.writing(ctx)
	return context.WithValue(writes, stoppedKey{}, ctx), cancel
}

// writing returns the context of writes, which outlives ctx and ends with the
// second Ctrl-C or SIGTERM.
func (a *app) writing(ctx context.Context) (context.Context, context.CancelFunc) {
	told := context.AfterFunc(ctx, func() {
		a.note("stopping when the writes under way have ended; Ctrl-C again cuts them off")
	})
	writes, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		select {
		case <-a.cut:
			cancel()
		case <-writes.Done():
		}
	}()
	return writes, func() {
		told()
		cancel()
	}
}

// note prints a message for a person, in addition to the result.
func (a *app) note(text string) {
	if a.flags.JSON {
		return
	}
	if a.isTerminal(a.stderr) {
		text = eraseLine + text // over a progress bar
	}
	fmt.Fprintln(a.stderr, text)
}

// confirm asks for confirmation on stderr, unless yes is set.
func (a *app) confirm(ctx context.Context, yes bool, question string) error {
	if yes {
		return nil
	}
	if a.flags.JSON {
		return plain("with --json there is no question: confirm with --yes")
	}
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	line, err := bufio.NewReader(&interruptible{ctx, a.stdin}).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return plain("not confirmed; nothing was done")
}

// plain returns an error that does not come from Oakra, such as one in the command
// line.
func plain(format string, args ...any) error {
	return &failure{code: exitError, message: fmt.Sprintf(format, args...)}
}
