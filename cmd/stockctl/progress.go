package main

import (
	"fmt"
	"io"

	"github.com/schollz/progressbar/v3"
)

// progress shows how far a long work is, with its rate and the time left, and
// nothing where no person would see it.
type progress struct {
	app  *app
	what string
	bar  *progressbar.ProgressBar
}

func (a *app) newProgress() *progress { return &progress{app: a} }

// show is called by one goroutine at a time. The first call for a work starts
// its clock.
func (p *progress) show(what string, done, total int) {
	if total == 0 || p.app.flags.JSON || p.app.flags.Verbose || !p.app.isTerminal(p.app.stderr) {
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
	if done == 0 { // there is no rate yet
		fmt.Fprintf(p.app.stderr, "%s%s: %s ...", eraseLine, what, records(total))
		return
	}
	_ = p.bar.Set(done)
}

// clear takes the bar away, done or not.
func (p *progress) clear() {
	if p.bar != nil {
		_ = p.bar.Exit()
		_, _ = io.WriteString(p.app.stderr, eraseLine)
		p.bar = nil
	}
}

const eraseLine = "\r\x1b[K"
