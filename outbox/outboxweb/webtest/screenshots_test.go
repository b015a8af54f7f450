package webtest

import (
	"bytes"
	"flag"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

var screenshots = flag.String("screenshots", "", "directory to write screenshots of every page to")

// TestScreenshots makes the pictures of the README:
//
//	go test ./outbox/outboxweb/webtest -run TestScreenshots -screenshots screenshots
func TestScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("no -screenshots")
	}
	require.NoError(t, os.MkdirAll(*screenshots, 0o755))
	s := newShow(t, false)
	b := newBrowser(t, s)
	for _, view := range views(s) {
		if view.name == "long" {
			continue
		}
		for name, look := range map[string]struct {
			scheme string
			width  int64
		}{"light": {"light", 1024}, "dark": {"dark", 1024}, "narrow": {"light", 380}} {
			b.size(look.width, 200)
			b.do(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: look.scheme}}))
			view.show(b)
			b.size(look.width, int64(eval[float64](b, "document.documentElement.scrollHeight")))
			var shot []byte
			b.do(chromedp.CaptureScreenshot(&shot))
			require.NoError(t, os.WriteFile(filepath.Join(*screenshots, view.name+"-"+name+".png"), small(t, shot), 0o644))
		}
	}
}

// small returns a picture with its 256 most frequent colours only, which takes a third of
// the space.
func small(t *testing.T, shot []byte) []byte {
	full, err := png.Decode(bytes.NewReader(shot))
	require.NoError(t, err)
	count := make(map[color.Color]int)
	for y := range full.Bounds().Dy() {
		for x := range full.Bounds().Dx() {
			count[full.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return count[b] - count[a] })
	few := image.NewPaletted(full.Bounds(), colours[:min(len(colours), 256)])
	draw.Draw(few, full.Bounds(), full, image.Point{}, draw.Src)
	var out bytes.Buffer
	require.NoError(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, few))
	return out.Bytes()
}
