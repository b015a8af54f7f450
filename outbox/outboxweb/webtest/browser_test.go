package webtest

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

// browser is a page in a Chromium of its own.
type browser struct {
	t   testing.TB
	ctx context.Context
	at  *shop

	mu     sync.Mutex
	faults []string // what the browser complained about
}

func chromium() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// newBrowser opens a browser at the pages of a shop. It leaves the test out if none is
// installed.
func newBrowser(t testing.TB, s *shop) *browser {
	program := chromium()
	if program == "" {
		t.Skip("LEFT OUT: the pages in a browser, since Chromium is not installed")
	}
	profile, err := os.MkdirTemp("", "oakra-chromium")
	require.NoError(t, err)
	allocator, stop := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(program),
		chromedp.UserDataDir(profile),
		chromedp.NoFirstRun,
		chromedp.NoDefaultBrowserCheck,
		chromedp.NoSandbox,
		chromedp.Headless,
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("hide-scrollbars", true),
		chromedp.WSURLReadTimeout(timeLimit),
	)
	quiet := func(string, ...any) {} // what a newer Chromium says that chromedp does not know
	ctx, cancel := chromedp.NewContext(allocator, chromedp.WithErrorf(quiet))
	limited, end := context.WithTimeout(ctx, 10*timeLimit)
	b := &browser{t: t, ctx: limited, at: s}
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		end()
		cancel()
		stop()
		_ = os.RemoveAll(profile)
		b.mu.Lock()
		defer b.mu.Unlock()
		require.Empty(t, b.faults)
	})
	chromedp.ListenTarget(limited, func(event any) {
		switch e := event.(type) {
		case *log.EventEntryAdded:
			if e.Entry.Level == log.LevelError && !strings.Contains(e.Entry.Text, "the server responded with a status") {
				b.complain(e.Entry.Text)
			}
		case *runtime.EventExceptionThrown:
			b.complain(e.ExceptionDetails.Error())
		}
	})
	b.do(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "light"}}))
	b.size(1280, 900)
	return b
}

func (b *browser) complain(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, text)
}

func (b *browser) do(actions ...chromedp.Action) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Run(b.ctx, actions...))
}

func (b *browser) size(width, height int64) {
	b.do(emulation.SetDeviceMetricsOverride(width, height, 1, false))
}

func (b *browser) open(path string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.at.web.URL + b.at.prefix + path))
}

// eval returns the value of an expression, also of a promise.
func eval[T any](b *browser, expression string) (value T) {
	b.t.Helper()
	b.do(chromedp.Evaluate(expression, &value, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	return value
}

// words is the text of the page, as a person sees it.
func (b *browser) words() string {
	b.t.Helper()
	return strings.Join(strings.Fields(eval[string](b, "document.body.innerText")), " ")
}

// see waits until the page has a text.
func (b *browser) see(text string) {
	b.t.Helper()
	ok := `document.readyState === "complete" && document.body.innerText.replace(/\s+/g, " ").includes(` + quoted(text) + `)`
	err := chromedp.Run(b.ctx, chromedp.Poll(ok, nil, chromedp.WithPollingInterval(tick), chromedp.WithPollingTimeout(timeLimit)))
	require.NoError(b.t, err, "waiting for %q in: %s", text, b.words())
}

func quoted(text string) string {
	q, _ := json.Marshal(text)
	return string(q)
}

// click clicks the first link or button whose text begins so, and waits for the page
// that follows.
func (b *browser) click(text string) {
	b.t.Helper()
	mark := eval[string](b, `(() => {
		const found = [...document.querySelectorAll("a, button")].find((e) => e.innerText.trim().startsWith(`+quoted(text)+`));
		if (!found) return "";
		found.id = found.id || "to-click";
		return found.id;
	})()`)
	require.NotEmpty(b.t, mark, "there is no %q in: %s", text, b.words())
	b.leave(chromedp.Click("#"+mark, chromedp.ByQuery))
}

// leave does something that leads to another page, and waits for that.
func (b *browser) leave(actions ...chromedp.Action) {
	b.t.Helper()
	_, err := chromedp.RunResponse(b.ctx, actions...)
	require.NoError(b.t, err)
}

// A foreign hand on a witness halts the outbox; a person reads why, and resumes.
func TestBrowserHaltAndResume(t *testing.T) {
	s := newShop(t, openSQLite(t))
	b := newBrowser(t, s)
	b.open("")
	b.see("The outbox works, and nothing waits.")
	s.halt()
	eval[any](b, "refresh()")
	b.see("Halted Nothing is sent until a person resumes.")
	b.see("The state has changed. Show what is new")
	b.click("Show what is new")
	b.see("Why it halted the witnesses have ")
	b.see("+4711 and ")
	b.see("Find out what happened at that time")
	b.click("Resume …")
	b.see("Was the shop’s database restored")
	require.False(t, eval[bool](b, `document.querySelector("form.confirm").reportValidity()`), "the browser asks for what is missing first")
	b.do(chromedp.Click("#no", chromedp.ByQuery), chromedp.SendKeys("#note", "Somebody counted the head by mistake.", chromedp.ByQuery))
	b.click("Resume")
	b.see("Not sending No process dispatches, and 1 change waits to be sent.")
	s.drain()
	require.Equal(t, outbox.StateApplied, s.find("at-halt").State)
	require.Equal(t, int64(133), s.quantity(3))
}

// A rejected change is found, sent again, and applied.
func TestBrowserSendAgain(t *testing.T) {
	s := newShop(t, openSQLite(t))
	b := newBrowser(t, s)
	s.add("order-1/1", "sold-out-hat", -2)
	s.add("order-2/1", "sold-out-scarf", -1)
	s.run()
	require.Eventually(t, func() bool { return s.status().Parked == 2 }, timeLimit, tick)
	b.open("")
	b.see("2 changes wait for a decision.")
	b.click("2")
	b.see("order-1/1")
	b.do(chromedp.SendKeys("#find", "order-1/1", chromedp.ByQuery))
	b.click("Find")
	b.see("Change order-1/1")
	b.see("parked")
	s.set(soldOut, 10)
	b.click("Send again …")
	b.see("Sends −2 of sold-out-hat at warehouse-1 again: stock goes down by 2 when Oakra applies it.")
	b.do(chromedp.SendKeys("#note", "Ten hats arrived.", chromedp.ByQuery))
	b.click("Send this change again")
	b.see("resolved by Anna resend: Ten hats arrived.")
	require.Eventually(t, func() bool { return s.find("order-1/1").State == outbox.StateApplied }, timeLimit, tick)
	b.do(chromedp.Reload())
	b.see("applied counted in Oakra")
	require.Equal(t, int64(8), s.quantity(soldOut))
	require.Equal(t, outbox.StateParked, s.find("order-2/1").State)
}

// Everything can be reached and done with the keyboard alone, and the focus is seen.
func TestBrowserKeyboardOnly(t *testing.T) {
	s := newShop(t, openSQLite(t))
	b := newBrowser(t, s)
	for i := range 3 {
		s.add(fmt.Sprintf("order-%d/1", i), "sold-out-hat", -1)
	}
	s.drain()
	b.open("")
	tab := func(to string) {
		t.Helper()
		for range 60 {
			b.do(chromedp.KeyEvent(kb.Tab))
			focus := eval[[]string](b, `(() => {
				const e = document.activeElement, style = getComputedStyle(e), label = e.labels && e.labels[0];
				const by = e.getAttribute("aria-labelledby");
				const name = by ? document.getElementById(by).innerText : label ? label.innerText : e.innerText;
				return [name.trim(), style.outlineStyle + " " + style.outlineWidth];
			})()`)
			require.NotEmpty(t, focus[0], "what has the focus has no name")
			require.Equal(t, "solid 3px", focus[1], "the focus is not seen at %s", focus[0])
			if strings.HasPrefix(focus[0], to) {
				return
			}
		}
		t.Fatalf("Tab does not lead to %q in: %s", to, b.words())
	}
	tab("Skip to the content")
	tab("Changes")
	b.leave(chromedp.KeyEvent(kb.Enter))
	b.see("order-2/1")
	tab("Select all on this page")
	b.do(chromedp.KeyEvent(" "))
	tab("order-1/1") // its box
	b.do(chromedp.KeyEvent(" "))
	tab("Drop …")
	b.leave(chromedp.KeyEvent(kb.Enter))
	b.see("Drop?")
	require.NotContains(t, b.words(), "order-1/1")
	tab("Why?")
	b.do(chromedp.KeyEvent("The orders were cancelled."))
	tab("Drop these 2 changes")
	b.leave(chromedp.KeyEvent(kb.Enter))
	b.see("2 changes were decided")
	require.Equal(t, outbox.StateDropped, s.find("order-0/1").State)
	require.Equal(t, outbox.StateDropped, s.find("order-2/1").State)
	require.Equal(t, outbox.StateParked, s.find("order-1/1").State)
}

// A refresh changes the numbers, and moves neither anything on the page nor the focus.
func TestBrowserRefresh(t *testing.T) {
	for _, width := range []int64{1280, 380} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			s := newShop(t, openSQLite(t))
			b := newBrowser(t, s)
			b.size(width, 900)
			b.open("")
			b.see("nothing waits.")
			eval[any](b, `window.moved = 0; new PerformanceObserver((list) => { for (const e of list.getEntries()) { window.moved += e.value; window.what = (window.what || '') + e.sources.map((x) => x.node && (x.node.outerHTML || x.node.textContent).slice(0, 200) + JSON.stringify(x.previousRect) + JSON.stringify(x.currentRect)).join('; '); } })
				.observe({type: "layout-shift", buffered: true}); document.querySelector("[data-live=parked] a").focus(); window.kept = document.activeElement`)
			height := eval[float64](b, "document.documentElement.scrollHeight")
			for i := range 12 {
				s.add(fmt.Sprintf("order-%d/1", i), []string{"sold-out-hat", "shirt-blue-m"}[i%2], -1)
				if i%3 == 0 {
					eval[any](b, "refresh()")
					b.see("Not sending")
				}
				s.drain()
				eval[any](b, "refresh()")
				require.Contains(t, b.words(), fmt.Sprintf("Parked %d wait", i/2+1))
			}
			require.Contains(t, b.words(), "Needs a decision The outbox works. 6 changes wait for a decision.")
			require.True(t, eval[bool](b, "document.activeElement === window.kept"), "the focus moved")
			eval[any](b, "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
			require.Zero(t, eval[float64](b, "window.moved"), "the layout shifted: %s", eval[string](b, "window.what || ''"))
			require.InDelta(t, height, eval[float64](b, "document.documentElement.scrollHeight"), 0.5)

			// Every other sentence, and the name of the process that dispatches.
			s.oakra.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 503})
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Run(ctx) }()
			s.add("order-20/1", "shirt-blue-m", -1)
			_, err := s.db.Exec("UPDATE oakra_outbox_change SET added = added - 3600000000 WHERE id = 'order-20/1'")
			require.NoError(t, err)
			require.Eventually(t, func() bool { return s.status().Leader != "" }, timeLimit, tick)
			eval[any](b, "refresh()")
			b.see("Late The oldest change has waited for 41 days")
			stop()
			require.NoError(t, <-ended)
			require.NoError(t, s.db.Close())
			eval[any](b, "refresh()")
			b.see("Unknown The database does not respond. What is shown below was read")
			require.Contains(t, b.words(), "Parked 6 wait")
			require.Zero(t, eval[float64](b, "window.moved"), "the layout shifted: %s", eval[string](b, "window.what || ''"))
			require.InDelta(t, height, eval[float64](b, "document.documentElement.scrollHeight"), 0.5)

			s.web.Close()
			eval[any](b, "refresh()")
			b.see("The page could not be refreshed. Load it again")
			require.Contains(t, b.words(), "Parked 6 wait")
			require.Zero(t, eval[float64](b, "window.moved"), "the layout shifted: %s", eval[string](b, "window.what || ''"))
			b.mu.Lock()
			b.faults = nil // of the connection that was refused
			b.mu.Unlock()
		})
	}
}

// newShow returns a shop with something on every page, also a change with long names if
// that is asked for.
func newShow(t testing.TB, withLong bool) *shop {
	s := newShop(t, openSQLite(t))
	for i := range 4 {
		s.add(fmt.Sprintf("order-%d/1", 1001+i), "shirt-blue-m", -1)
		s.add(fmt.Sprintf("order-%d/2", 1001+i), []string{"sold-out-hat", "sold-out-scarf"}[i%2], -int64(i%2)-1)
	}
	s.drain()
	require.NoError(t, s.Resolve(t.Context(), outbox.Decision{Action: outbox.Resend, By: "Bert", Note: "The warehouse says that two scarves are left."}, "order-1004/2"))
	require.NoError(t, s.Resolve(t.Context(), outbox.Decision{Action: outbox.Drop, By: "Bert", Note: "The customer cancelled."}, "order-1001/2"))
	s.drain()
	if !withLong {
		return s
	}
	long := strings.Repeat("very-long-", 19) + "<b>name</b>"
	require.NoError(t, s.Add(t.Context(), outbox.Change{ID: "order-1005/" + long[:185], SKU: long, LocationID: long, QuantityChange: -1 << 40}))
	_, err := s.db.Exec("UPDATE oakra_outbox_change SET state = 3, note = $1 WHERE sku = $2", "not known: Oakra has no stock record of this SKU and location "+strings.Repeat("x", 300), long)
	require.NoError(t, err)
	return s
}

// views are the pages, each with how to get there.
func views(s *shop) []struct {
	name string
	show func(b *browser)
} {
	parked := func(b *browser) { b.open("changes?state=parked") }
	ask := func(b *browser) {
		b.open("change?id=order-1004/2")
		b.click("Send again …")
	}
	return []struct {
		name string
		show func(b *browser)
	}{
		{"overview", func(b *browser) { b.open("") }},
		{"parked", parked},
		{"all", func(b *browser) { b.open("changes?state=all") }},
		{"change", func(b *browser) { b.open("change?id=order-1004/2") }},
		{"long", func(b *browser) {
			parked(b)
			b.click("order-1005")
		}},
		{"decide", ask},
		{"no-reason", func(b *browser) {
			ask(b)
			eval[any](b, `document.querySelector("form.confirm").noValidate = true`)
			b.leave(chromedp.Click("button.main", chromedp.ByQuery))
		}},
		{"conflict", func(b *browser) {
			parked(b)
			eval[any](b, `document.querySelectorAll("td input").forEach((e) => { e.checked = true; });
				const gone = document.querySelector("td input[value='order-1003/2']"); gone.value = "order-1001/2"`)
			b.click("Drop …")
		}},
		{"unknown", func(b *browser) { b.open("change?id=order-1") }},
		{"halted", func(b *browser) {
			if s.status().Halted == "" {
				s.halt()
			}
			b.open("")
		}},
		{"resume", func(b *browser) { b.open("resume") }},
	}
}

// No page scrolls sideways on a narrow screen, or when it is zoomed to 200 %.
func TestBrowserNarrowAndZoomed(t *testing.T) {
	s := newShow(t, true)
	b := newBrowser(t, s)
	for _, view := range views(s) {
		view.show(b)
		for name, prepare := range map[string]func(){
			"380 pixels wide":    func() { b.size(380, 800) },
			"zoomed to 200 %":    func() { b.size(640, 450) },
			"text of 200 %":      func() { b.size(1280, 900); eval[any](b, `document.documentElement.style.fontSize = "200%"`) },
			"1280 pixels, again": func() { b.size(1280, 900); eval[any](b, `document.documentElement.style.fontSize = ""`) },
		} {
			prepare()
			sizes := eval[[]float64](b, `[document.documentElement.scrollWidth, document.documentElement.clientWidth]`)
			require.LessOrEqual(t, sizes[0], sizes[1], "%s at %s", view.name, name)
		}
	}
}

var axeFile = flag.String("axe", "", "axe.min.js of axe-core from npm, which finds what people who cannot see the page or use a mouse would stumble over")

func TestBrowserAxe(t *testing.T) {
	if *axeFile == "" {
		t.Skip("LEFT OUT: axe-core, without -axe")
	}
	text, err := os.ReadFile(*axeFile)
	require.NoError(t, err)
	s := newShow(t, true)
	b := newBrowser(t, s)
	for _, view := range views(s) {
		view.show(b)
		for _, scheme := range []string{"light", "dark"} {
			b.do(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
			for _, width := range []int64{1280, 380} {
				b.size(width, 900)
				eval[any](b, string(text)+"; null")
				found := eval[[]string](b, `axe.run().then((r) => r.violations.flatMap((v) => v.nodes.map((n) => v.impact + " " + v.id + ": " + v.help + ": " + n.html)))`)
				require.Empty(t, found, "%s, %s, %d", view.name, scheme, width)
			}
		}
		b.size(1280, 900)
	}
}

// Without JavaScript everything works, except the refresh.
func TestBrowserWithoutScript(t *testing.T) {
	s := newShop(t, openSQLite(t))
	b := newBrowser(t, s)
	s.add("order-1/1", "sold-out-hat", -2)
	s.drain()
	s.set(soldOut, 10)
	b.do(emulation.SetScriptExecutionDisabled(true))
	at := func(text string) { b.do(chromedp.WaitVisible(`//*[contains(., "`+text+`")]`, chromedp.BySearch)) }
	b.do(chromedp.Navigate(s.web.URL+s.prefix+"changes"),
		chromedp.Click(`td input`, chromedp.ByQuery),
		chromedp.Click(`button[value=resend]`, chromedp.ByQuery),
		chromedp.SendKeys("#note", "in stock", chromedp.ByQuery),
		chromedp.Click(`button.main`, chromedp.ByQuery))
	at("resolved")
	s.drain()
	require.Equal(t, int64(8), s.quantity(soldOut))
	b.do(chromedp.Navigate(s.web.URL + s.prefix))
	at("nothing waits.")
	b.do(emulation.SetScriptExecutionDisabled(false))
	require.Equal(t, "hidden", eval[string](b, `getComputedStyle(document.querySelector(".when label")).visibility`))
}
