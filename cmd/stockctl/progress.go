package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/schollz/progressbar/v3"
)

// progress shows the progress of a long task, with its rate and the time left. It shows
// nothing if no person would see it.
type progress struct {
	app     *app
	what    string
	bar     *progressbar.ProgressBar
	waiting string // what to show instead of the bar while a run waits for the service
}

func (a *app) newProgress() *progress { return &progress{app: a} }

// shown reports whether a person sees the bar.
func (p *progress) shown() bool {
	return !p.app.flags.JSON && !p.app.flags.Verbose && p.app.isTerminal(p.app.stderr)
}

// wait sets whether a run waits for a service that does not respond. The next call of
// show displays that in place of the bar. Without a bar, wait prints a line.
func (p *progress) wait(waiting bool, since time.Time, failure error) {
	waited := p.waiting
	p.waiting = ""
	if waiting {
		p.waiting = fmt.Sprintf("waiting for the service since %s (%s)", since.Format(time.TimeOnly), cause(failure))
	}
	switch {
	case p.waiting == waited:
	case p.waiting == "" && p.shown():
		_, _ = io.WriteString(p.app.stderr, eraseLine)
	case p.waiting != "" && !p.shown():
		p.app.note(p.waiting)
	}
}

// cause returns what a service did instead of responding, in a few words.
func cause(err error) string {
	var e *oakra.Error
	switch {
	case errors.Is(err, oakra.ErrBadResponse):
		return "an unreadable response"
	case errors.As(err, &e) && e.StatusCode != 0:
		return fmt.Sprint(e.StatusCode, " ", http.StatusText(e.StatusCode))
	case errors.Is(err, oakra.ErrUnreachable):
		return "no connection"
	}
	return "no response"
}

// show shows how much of a task is done. Its calls must not overlap. The first call for
// a task starts the task's clock.
func (p *progress) show(what string, done, total int) {
	if total == 0 || !p.shown() {
		return
	}
	if p.bar == nil || what != p.what {
		p.clear()
		p.what = what
		p.bar = progressbar.NewOptions(total,
			progressbar.OptionSetWriter(p.app.stderr),
			progressbar.OptionSetDescription(what),
			progressbar.OptionSetWidth(30),
			progressbar.OptionSetTheme(progressbar.ThemeASCII),
			progressbar.OptionShowCount(),
			progressbar.OptionShowIts(),
			progressbar.OptionSetItsString("records"),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionClearOnFinish(),
		)
		p.bar.StartWithoutRender()
	}
	if p.waiting != "" {
		fmt.Fprintf(p.app.stderr, "%s%s: %d of %s, %s", eraseLine, what, done, records(total), p.waiting)
		return
	}
	if done == 0 { // no rate is known yet
		fmt.Fprintf(p.app.stderr, "%s%s: %s ...", eraseLine, what, records(total))
		return
	}
	_ = p.bar.Set(done)
}

// clear removes the bar, whether the task is done or not.
func (p *progress) clear() {
	if p.bar != nil {
		_ = p.bar.Exit()
		_, _ = io.WriteString(p.app.stderr, eraseLine)
		p.bar = nil
	}
}

const eraseLine = "\r\x1b[K"
