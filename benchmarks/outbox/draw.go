package main

import (
	"bytes"
	"fmt"
	"math"
)

// Measures of the picture, in pixels. It is drawn for a narrow column.
const (
	width     = 380
	left      = 14
	right     = width - 14
	rowHeight = 40
)

// draw draws how much the others need relative to this outbox, on a logarithmic axis.
// Its colours follow the reader's light or dark surroundings.
func (r results) draw() []byte {
	low, high := 0.5, 10.0
	for _, d := range r.Databases {
		for _, m := range measures {
			for _, name := range []string{nameRiver, nameByHand} {
				if m.title != "" {
					low, high = min(low, m.ratio(d, name)*0.8), max(high, m.ratio(d, name)*1.4)
				}
			}
		}
	}
	at := func(v float64) float64 { return left + (right-left)*math.Log(v/low)/math.Log(high/low) }

	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	y := 88
	for _, m := range measures {
		if m.title == "" {
			continue
		}
		p(`<text class="head" x="%d" y="%d">%s</text>`, left, y, m.title)
		y += 20
		for _, d := range r.postgresFirst() {
			p(`<text x="%d" y="%d">%s</text>`, left, y, d.Database)
			p(`<text x="%d" y="%d" text-anchor="end">River %s×, by hand %s×</text>`, right, y, short(m.ratio(d, nameRiver)), short(m.ratio(d, nameByHand)))
			line := float64(y + 13)
			p(`<path class="track" d="M%d %gH%d"/>`, left, line, right)
			for tick := 1.0; tick < high; tick *= 10 {
				p(`<path class="track" d="M%.1f %gv8"/>`, at(tick), line-4)
			}
			x := at(m.ratio(d, nameRiver))
			p(`<rect class="river" x="%.1f" y="%g" width="9" height="9"/>`, x-4.5, line-4.5)
			x = at(m.ratio(d, nameByHand))
			p(`<path class="hand" d="M%.1f %gl6 6l-6 6l-6 -6z"/>`, x, line-6)
			p(`<circle class="own" cx="%.1f" cy="%g" r="5"/>`, at(1), line)
			y += rowHeight
		}
		y += 8
	}
	y -= 14
	for tick := 1.0; tick < high; tick *= 10 {
		anchor := "middle"
		if at(tick) > right-24 {
			anchor = "end"
		}
		p(`<text class="small" x="%.1f" y="%d" text-anchor="%s">%s×</text>`, at(tick), y, anchor, thousands(int(tick)))
	}
	y += 32
	p(`<text class="head" x="%d" y="%d">Wrong records of %s after the same storm</text>`, left, y, thousands(r.Databases[0].storm(nameOutbox).Records))
	for _, d := range r.postgresFirst() {
		y += 20
		p(`<text x="%d" y="%d">%s</text>`, left, y, d.Database)
		p(`<text x="%d" y="%d" text-anchor="end">this outbox %d, River %d, by hand %d</text>`, right, y,
			d.storm(nameOutbox).Wrong, d.storm(nameRiver).Wrong, d.storm(nameByHand).Wrong)
	}
	height := y + 16

	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-labelledby="title">
<title id="title">What River and an outbox written by hand need, relative to this outbox</title>
<style>
text { font: 13px -apple-system, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; fill: #1f2328 }
.head { font-weight: 600 } .small { font-size: 12px; fill: #59636e }
.back { fill: #ffffff; stroke: #d1d9e0 } .track { stroke: #d1d9e0; stroke-width: 1.5 }
.own { fill: #0b5fd3 } .river { fill: #b35900 } .hand { fill: #007a55 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .small { fill: #9198a1 } .back { fill: #0d1117; stroke: #3d444d } .track { stroke: #3d444d }
.own { fill: #58a6ff } .river { fill: #ffa657 } .hand { fill: #3fcf8e }
}
</style>
<rect class="back" x=".5" y=".5" width="%d" height="%d" rx="8"/>
<text class="head" x="%d" y="26">Relative to this outbox (log scale, left is better)</text>
<circle class="own" cx="%d" cy="47" r="5"/><text x="%d" y="52">this outbox = 1</text>
<rect class="river" x="%d" y="42.5" width="9" height="9"/><text x="%d" y="52">River</text>
<path class="hand" d="M%d 41l6 6l-6 6l-6 -6z"/><text x="%d" y="52">by hand</text>
`, width, height, width, height, width-1, height-1, left, left+6, left+17, left+140, left+155, left+210, left+222)
	out.Write(b.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}
