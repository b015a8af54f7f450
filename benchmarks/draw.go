package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// The clients' colours, told apart by most colour-blind people too.
var colours = map[string]string{
	nameOakra:     "#0b5fd3",
	nameRetryable: "#e69f00",
	nameResty:     "#009e73",
	nameGitHub:    "#cc79a7",
	nameOAPI:      "#7d8590",
}

var drawnClients = []string{nameOakra, nameRetryable, nameResty, nameGitHub, nameOAPI}

// Measures of the picture, in pixels.
const (
	width      = 980
	margin     = 24
	labelWidth = 118 // of "batches of 1,000"
	panelGap   = 20
	barHeight  = 11
	barStep    = 13
	groupGap   = 15
	edge       = 46 // right of the plot, for a number at its end
	plotWidth  = (width - 2*margin - labelWidth - panelGap - 2*edge) / 2
)

// drawSVG draws the ratios to net/http, and the bulk run, with a background of
// its own, to be read in light and in dark surroundings.
func drawSVG(r results) []byte {
	var b bytes.Buffer
	sizes := drawnSizes(r)
	panelHeight := len(sizes)*(len(drawnClients)*barStep+groupGap) + groupGap
	y := 128
	body := &picture{&b}
	scale := ratioScale(r, sizes)
	for _, transport := range []string{overMemory, overLoopback} {
		title := "answers from memory"
		if transport == overLoopback {
			title = "a server over loopback"
		}
		for i, op := range []string{opList, opUpdate} {
			x := margin + labelWidth + i*(plotWidth+edge+panelGap)
			body.text(x, y-10, "panel", "start", op+", "+title)
			body.ratios(r, op, transport, sizes, scale, x, y, panelHeight, i == 0)
		}
		y += panelHeight + 62
	}
	if r.Bulk != nil {
		y = body.bulk(r.Bulk, y)
	}
	height := y + 18

	var out bytes.Buffer
	p := &picture{&out}
	p.f(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-labelledby="title">`, width, height, width, height)
	p.f(`<title id="title">Time of a call relative to plain net/http, by client and number of records</title>`)
	p.f(`<style>
text { font-family: -apple-system, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; font-size: 12px; fill: #3d444d }
.title { font-size: 18px; font-weight: 600; fill: #1f2328 }
.panel { font-size: 13px; font-weight: 600; fill: #1f2328 }
.small { font-size: 11px; fill: #59636e }
.value { font-size: 10px; fill: #3d444d }
.own { font-size: 11px; font-weight: 700; fill: #0b5fd3 }
.grid { stroke: #e4e7eb } .one { stroke: #1f2328; stroke-width: 1.5 } .whisker { stroke: #1f2328; stroke-width: 1; opacity: .7 }
</style>`)
	p.f(`<rect x=".5" y=".5" width="%d" height="%d" rx="8" fill="#ffffff" stroke="#d1d9e0"/>`, width-1, height-1)
	p.text(margin, 34, "title", "start", "Time of a call relative to plain net/http with encoding/json")
	p.text(margin, 54, "small", "start", fmt.Sprintf(
		"Log scale; left of 1 is faster. Medians of %d interleaved pairs, whiskers from p25 to p75. %s/%s, %d CPUs, %s.",
		r.Pairs, r.Machine.OS, r.Machine.Arch, r.Machine.CPUs, r.Machine.Go))
	x := margin
	for _, name := range drawnClients {
		p.f(`<rect x="%d" y="69" width="12" height="12" rx="2" fill="%s"/>`, x, colours[name])
		p.text(x+17, 79, "", "start", name)
		x += 17 + 7*len(name) + 26
	}
	p.f(`<line class="one" x1="%d" y1="68" x2="%d" y2="82"/>`, x+4, x+4)
	p.text(x+13, 79, "", "start", nameNetHTTP+" = 1")
	out.Write(b.Bytes())
	p.f(`</svg>`)
	return out.Bytes()
}

// picture writes elements of an SVG.
type picture struct{ *bytes.Buffer }

func (p picture) f(format string, args ...any) {
	fmt.Fprintf(p, format, args...)
	p.WriteByte('\n')
}

func (p picture) text(x, y int, class, anchor, text string) {
	fmt.Fprintf(p, `<text x="%d" y="%d"`, x, y)
	if class != "" {
		fmt.Fprintf(p, ` class="%s"`, class)
	}
	if anchor != "start" {
		fmt.Fprintf(p, ` text-anchor="%s"`, anchor)
	}
	p.WriteByte('>')
	_ = xml.EscapeText(p, []byte(text))
	p.WriteString("</text>\n")
}

// ratios draws one panel, of bars that start at the line of 1.
func (p picture) ratios(r results, op, transport string, sizes []int, scale logScale, x, y, height int, labels bool) {
	at := func(v float64) float64 { return float64(x) + scale.at(v)*plotWidth }
	for _, tick := range scale.ticks() {
		p.f(`<line class="grid" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`, at(tick), y, at(tick), y+height)
		p.text(int(math.Round(at(tick))), y+height+15, "small", "middle", strconv.FormatFloat(tick, 'g', -1, 64)+"×")
	}
	row := y + groupGap
	for _, n := range sizes {
		if labels {
			unit := " records"
			if n == 1 {
				unit = " record"
			}
			p.text(x-14, row+len(drawnClients)*barStep/2+3, "", "end", thousands(n)+unit)
		}
		for _, name := range drawnClients {
			c, ok := r.of(setup{op, transport, true, n}, name)
			if !ok {
				row += barStep
				continue
			}
			from, to := at(1), at(c.Ratio.P50)
			p.f(`<rect x="%.1f" y="%d" width="%.1f" height="%d" rx="1.5" fill="%s"/>`,
				min(from, to), row, max(1, math.Abs(to-from)), barHeight, colours[name])
			low, high, middle := at(c.Ratio.P25), at(c.Ratio.P75), float64(row)+barHeight/2.0
			p.f(`<path class="whisker" d="M%.1f %.1fH%.1fM%.1f %.1fv5M%.1f %.1fv5" fill="none"/>`,
				low, middle, high, low, middle-2.5, high, middle-2.5)
			class, label := "value", fmt.Sprintf("%.2f", c.Ratio.P50)
			if name == nameOakra {
				class = "own"
			}
			if c.Ratio.P50 < 0.95 {
				p.text(int(min(low, to))-5, row+barHeight-2, class, "end", label)
			} else {
				p.text(int(max(high, to, from))+5, row+barHeight-2, class, "start", label)
			}
			row += barStep
		}
		row += groupGap
	}
	p.f(`<line class="one" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`, at(1), y, at(1), y+height)
}

// bulk draws how long all updates take, and returns where it ends.
func (p picture) bulk(b *bulkResult, y int) int {
	x := margin + labelWidth
	full := float64(width - 2*margin - labelWidth - 2*edge)
	p.text(x, y-10, "panel", "start", fmt.Sprintf("UpdateAll: %s updates, server of %g ms + %g µs a record",
		thousands(b.Updates), b.LatencyMS, b.RecordUS))
	var sizes []int
	low := b.OneByOne.Seconds
	for _, run := range b.Runs {
		if !slices.Contains(sizes, run.BatchSize) {
			sizes = append(sizes, run.BatchSize)
		}
		low = min(low, run.Seconds)
	}
	scale := logScale{math.Pow(10, math.Floor(math.Log10(low))), b.OneByOne.Seconds}
	at := func(v float64) float64 { return float64(x) + scale.at(v)*full }
	height := len(b.Runs)*barStep + (len(sizes)+2)*groupGap + barStep
	for tick := scale.low; tick <= scale.high; tick *= 10 {
		p.f(`<line class="grid" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`, at(tick), y, at(tick), y+height)
		p.text(int(math.Round(at(tick))), y+height+15, "small", "middle", tickText(tick))
	}
	row := y + groupGap
	bar := func(seconds float64, colour, label string) {
		p.f(`<rect x="%d" y="%d" width="%.1f" height="%d" rx="1.5" fill="%s"/>`, x, row, at(seconds)-float64(x), barHeight, colour)
		p.text(int(at(seconds))+5, row+barHeight-2, "value", "start", label)
		row += barStep
	}
	p.text(x-14, row+barHeight-1, "", "end", "one at a time")
	bar(b.OneByOne.Seconds, "#7d8590", secondsText(b.OneByOne.Seconds))
	row += groupGap
	shades := []string{"#9cc3f5", "#4d91e6", "#0b5fd3"}
	for _, size := range sizes {
		runs := 0
		first := row
		for _, run := range b.Runs {
			if run.BatchSize == size {
				bar(run.Seconds, shades[runs%len(shades)], fmt.Sprintf("%s, %d at once", secondsText(run.Seconds), run.Concurrency))
				runs++
			}
		}
		p.text(x-14, first+runs*barStep/2+3, "", "end", "batches of "+thousands(size))
		row += groupGap
	}
	p.text(x, y+height+34, "small", "start", fmt.Sprintf("Log scale. One at a time is reckoned from %d requests.", b.OneByOne.Measured))
	return y + height + 34
}

func secondsText(s float64) string {
	switch {
	case s >= 300:
		return fmt.Sprintf("%.0f min", s/60)
	case s < 1:
		return fmt.Sprintf("%.0f ms", s*1000)
	case s >= 10 || s == math.Trunc(s):
		return fmt.Sprintf("%.0f s", s)
	}
	return fmt.Sprintf("%.1f s", s)
}

// tickText is for powers of ten.
func tickText(s float64) string {
	if s < 1 {
		return secondsText(s)
	}
	return thousands(int(s)) + " s"
}

func thousands(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// logScale maps low to 0 and high to 1.
type logScale struct{ low, high float64 }

func (s logScale) at(v float64) float64 {
	return math.Log(min(max(v, s.low), s.high)/s.low) / math.Log(s.high/s.low)
}

func (s logScale) ticks() []float64 {
	var all []float64
	for _, tick := range []float64{0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20} {
		if s.low <= tick && tick <= s.high {
			all = append(all, tick)
		}
	}
	return all
}

// ratioScale holds all ratios that are drawn.
func ratioScale(r results, sizes []int) logScale {
	s := logScale{0.5, 2}
	for _, op := range []string{opList, opUpdate} {
		for _, transport := range []string{overMemory, overLoopback} {
			for _, n := range sizes {
				for _, name := range drawnClients {
					if c, ok := r.of(setup{op, transport, true, n}, name); ok {
						s.low, s.high = min(s.low, c.Ratio.P25*0.75), max(s.high, c.Ratio.P75*1.05)
					}
				}
			}
		}
	}
	return s
}

// drawnSizes are the numbers of records for which all clients were measured.
func drawnSizes(r results) []int {
	var sizes []int
	for _, s := range r.Setups {
		if len(s.Clients) > 2 && s.Op != opChange && !slices.Contains(sizes, s.Records) {
			sizes = append(sizes, s.Records)
		}
	}
	slices.Sort(sizes)
	return sizes
}
