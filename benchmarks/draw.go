package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// picture is an SVG with some panels, one below the other. It is narrow enough for a
// phone, and is drawn for a light and for a dark background.
type picture struct {
	name   string
	panels []panel
}

// panel is a chart with one dot per row, on a logarithmic axis.
type panel struct {
	title string
	notes []string // lines of text
	ticks []tick
	mark  float64 // tick with a stronger line, or 0 for none
	rows  []row
}

type tick struct {
	value float64
	text  string
}

// row is a dot with a whisker. A row without a dot is a heading.
type row struct {
	label string
	dot   spread
	text  string // value as text
	own   bool   // whether the row is that of this library
}

// pictures returns all pictures of the results. The README of the repository shows the
// first one.
func pictures(r results) []picture {
	bulkSizes := []int{500}
	var all []int
	for _, run := range r.Bulk.Runs {
		if !slices.Contains(all, run.BatchSize) {
			all = append(all, run.BatchSize)
		}
	}
	return []picture{
		{"speed", []panel{r.ratioPanel(opList, overLoopback), r.bulkPanel(bulkSizes)}},
		{"update", []panel{r.ratioPanel(opUpdate, overLoopback)}},
		{"memory", []panel{r.ratioPanel(opList, overMemory), r.ratioPanel(opUpdate, overMemory)}},
		{"bulk", []panel{r.bulkPanel(all)}},
	}
}

var (
	drawnClients = []string{nameOakra, nameRetryable, nameResty, nameGitHub, nameOAPI}
	drawnSizes   = []int{1, 100, 10_000}
)

// ratioPanel returns a panel that compares the clients with net/http.
func (r results) ratioPanel(op, transport string) panel {
	p := panel{
		title: op + ": time beside net/http and encoding/json",
		notes: []string{"A server over loopback. Log scale; left of 1× is faster.", fmt.Sprintf("Dot: median of %d rounds. Line: p25 to p75.", r.Pairs)},
		mark:  1,
	}
	if transport == overMemory {
		p.notes[0] = "Responses from memory. Log scale; left of 1× is faster."
	}
	for _, value := range []float64{0.05, 0.1, 0.2, 0.5, 1, 2, 5} {
		p.ticks = append(p.ticks, tick{value, strconv.FormatFloat(value, 'g', -1, 64) + "×"})
	}
	for _, n := range drawnSizes {
		p.rows = append(p.rows, row{label: recordsText(n)})
		for _, name := range drawnClients {
			if c, ok := r.of(setup{op, transport, true, n}, name); ok {
				p.rows = append(p.rows, row{name, c.Ratio, fmt.Sprintf("%.2f×", c.Ratio.P50), name == nameOakra})
			}
		}
	}
	return p
}

// bulkPanel returns the panel that shows how long all updates take.
func (r results) bulkPanel(sizes []int) panel {
	b := r.Bulk
	p := panel{
		title: fmt.Sprintf("UpdateAll: time of %s updates", thousands(b.Updates)),
		notes: []string{fmt.Sprintf("A server of %g ms a request and %g µs a record. Log scale.", b.LatencyMS, b.RecordUS)},
		ticks: []tick{{0.1, "0.1 s"}, {1, "1 s"}, {10, "10 s"}, {60, "1 min"}, {600, "10 min"}, {3600, "1 h"}},
		rows:  []row{{label: "batches of 1"}, b.row(1, b.OneByOne.Seconds, false)},
	}
	for _, size := range sizes {
		p.rows = append(p.rows, row{label: "batches of " + thousands(size)})
		for _, run := range b.Runs {
			if run.BatchSize == size {
				p.rows = append(p.rows, b.row(run.Concurrency, run.Seconds, true))
			}
		}
	}
	return p
}

func (b *bulkResult) row(concurrency int, seconds float64, own bool) row {
	return row{fmt.Sprintf("%d in flight", concurrency), spread{seconds, seconds, seconds}, secondsText(seconds), own}
}

// alt returns the alternative text of the picture, with its numbers.
func (p picture) alt() string {
	var text []string
	for _, panel := range p.panels {
		sentence := panel.title
		sep := ": "
		for _, row := range panel.rows {
			if row.text == "" {
				sentence += "; " + row.label
				sep = ": "
				continue
			}
			sentence += sep + row.label + " " + row.text
			sep = ", "
		}
		text = append(text, sentence+".")
	}
	return strings.Join(text, " ")
}

// theme has the colours for a light or a dark background.
type theme struct {
	name                                  string
	paper, text, muted, grid, own, others string
}

var themes = []theme{
	{"light", "#ffffff", "#1f2328", "#59636e", "#d8dee4", "#0969da", "#818b98"},
	{"dark", "#0d1117", "#f0f6fc", "#9198a1", "#30363d", "#58a6ff", "#7d8590"},
}

func (p picture) file(t theme) string { return fmt.Sprintf("%s-%s.svg", p.name, t.name) }

// picturesDir is the directory of the pictures, in the directory of this module.
const picturesDir = "pictures"

// drawAll draws all pictures into the directory of pictures in dir.
func drawAll(dir string, r results) error {
	dir = filepath.Join(dir, picturesDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, p := range pictures(r) {
		for _, t := range themes {
			if err := os.WriteFile(filepath.Join(dir, p.file(t)), p.draw(t), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// Measures of a picture, in pixels.
const (
	width      = 480
	margin     = 16
	labelWidth = 140
	valueWidth = 66
	rowHeight  = 21
	headGap    = 6
	plotLeft   = margin + labelWidth
	plotWidth  = width - 2*margin - labelWidth - valueWidth
)

// draw returns the SVG.
func (p picture) draw(t theme) []byte {
	var body svg
	y := margin
	for _, panel := range p.panels {
		y = body.panel(panel, y) + margin
	}
	var out svg
	out.f(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-labelledby="title">`, width, y, width, y)
	out.WriteString(`<title id="title">`)
	_ = xml.EscapeText(&out, []byte(p.alt()))
	out.f(`</title>`)
	out.f(`<style>
text { font: 14px -apple-system, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; fill: %s }
.title, .head, .own { font-weight: 600 } .title { font-size: 15px } .note { font-size: 13px; fill: %s }
text.own { fill: %s } circle, .whisker { fill: %[4]s; stroke: %[4]s } circle.own, .whisker.own { fill: %[3]s; stroke: %[3]s }
.whisker { stroke-width: 2; opacity: .6 } .grid { stroke: %[5]s } .mark { stroke: %[2]s; stroke-width: 1.5 }
</style>`, t.text, t.muted, t.own, t.others, t.grid)
	out.f(`<rect x=".5" y=".5" width="%d" height="%d" rx="6" fill="%s" stroke="%s"/>`, width-1, y-1, t.paper, t.grid)
	out.Write(body.Bytes())
	out.f(`</svg>`)
	return out.Bytes()
}

// svg writes elements.
type svg struct{ bytes.Buffer }

func (s *svg) f(format string, args ...any) {
	fmt.Fprintf(s, format, args...)
	s.WriteByte('\n')
}

func (s *svg) text(x float64, y int, class, anchor, text string) {
	fmt.Fprintf(s, `<text x="%.0f" y="%d" class="%s" text-anchor="%s">`, x, y, class, anchor)
	_ = xml.EscapeText(s, []byte(text))
	s.WriteString("</text>\n")
}

// panel draws a panel that begins at y, and returns where it ends.
func (s *svg) panel(p panel, y int) int {
	y += 14
	s.text(margin, y, "title", "start", p.title)
	for _, note := range p.notes {
		y += 18
		s.text(margin, y, "note", "start", note)
	}
	y += 12
	low, high := p.span()
	at := func(v float64) float64 { return plotLeft + plotWidth*math.Log(v/low)/math.Log(high/low) }
	bottom := y + len(p.rows)*rowHeight + 4
	for _, row := range p.rows[1:] {
		if row.text == "" {
			bottom += headGap
		}
	}
	for _, tick := range p.ticks {
		if tick.value < low || tick.value > high {
			continue
		}
		class := "grid"
		if tick.value == p.mark {
			class = "mark"
		}
		s.f(`<line class="%s" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`, class, at(tick.value), y, at(tick.value), bottom)
		s.text(at(tick.value), bottom+17, "note", "middle", tick.text)
	}
	for i, row := range p.rows {
		if row.text == "" && i > 0 {
			y += headGap
		}
		base, middle := y+16, float64(y)+11
		y += rowHeight
		if row.text == "" {
			s.text(margin, base, "head", "start", row.label)
			continue
		}
		class := ""
		if row.own {
			class = "own"
		}
		s.text(margin+10, base, class, "start", row.label)
		s.f(`<line class="whisker %s" x1="%.1f" y1="%.0f" x2="%.1f" y2="%.0f"/>`, class, at(row.dot.P25), middle, at(row.dot.P75), middle)
		s.f(`<circle class="%s" cx="%.1f" cy="%.0f" r="4.5"/>`, class, at(row.dot.P50), middle)
		s.text(width-margin, base, class, "end", row.text)
	}
	return bottom + 24
}

// span returns the ends of the axis, which are a little beyond all dots and whiskers.
func (p panel) span() (low, high float64) {
	low, high = math.Inf(1), 0
	for _, row := range p.rows {
		if row.text != "" {
			low, high = min(low, row.dot.P25), max(high, row.dot.P75)
		}
	}
	return low / 1.3, high * 1.3
}

// secondsText returns the seconds, rounded to the digits that matter to a reader.
func secondsText(s float64) string {
	switch {
	case s >= 120:
		return fmt.Sprintf("%.0f min", s/60)
	case s >= 10:
		return fmt.Sprintf("%.0f s", s)
	case s >= 1:
		return fmt.Sprintf("%.1f s", s)
	}
	return fmt.Sprintf("%.2f s", s)
}

func recordsText(n int) string {
	if n == 1 {
		return "1 record"
	}
	return thousands(n) + " records"
}

func thousands(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
