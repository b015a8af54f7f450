// Package outboxweb is the page for the person who looks after an outbox: how it is
// doing, which changes wait for a decision, and what to do after a halt.
//
//	page := outboxweb.Handler(box, outboxweb.Options{
//		AllowWrites: true,
//		User:        func(r *http.Request) string { return session(r).Name },
//		Link:        func(id string) string { return "/admin/orders/" + url.PathEscape(orderOf(id)) },
//	})
//	mux.Handle("/admin/outbox/", requireLogin(page))
//
// The pages are plain HTML with one style sheet, and work without JavaScript; a short
// script refreshes the numbers. They load nothing from another host.
//
// The handler does not ask who may see it: put it behind the shop's own login.
package outboxweb

import (
	"bytes"
	"context"
	"embed"
	"html/template"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oakra/oakra-go/outbox"
)

// Options are the settings of a [Handler].
type Options struct {
	// AllowWrites permits decisions on parked changes, and resuming after a halt.
	AllowWrites bool
	// User returns the name of the person who makes a request, which the history
	// keeps, at most 100 characters of it. Somebody without a name may read only, as may everybody if User is nil.
	User func(*http.Request) string
	// Link returns the address of the order that a change belongs to, or "". Only
	// http and https addresses, and those without a scheme, become links.
	Link func(id string) string
}

// Handler returns the pages of an outbox. They may be mounted under any path that ends
// with a slash, with [http.StripPrefix] or without it:
//
//	mux.Handle("/admin/outbox/", outboxweb.Handler(box, outboxweb.Options{}))
//
// The pattern must name no method, since decisions are POST requests. If the database
// fails, the reason is logged by [slog.Default]. Handler panics if box is nil.
func Handler(box *outbox.Outbox, o Options) http.Handler {
	if box == nil {
		panic("outboxweb: the outbox is nil")
	}
	return &handler{box: box, options: o, origin: http.NewCrossOriginProtection()}
}

const (
	readTimeout  = 10 * time.Second // after which a page says that the database does not respond
	writeTimeout = time.Minute      // of a decision, or of Resume, which reads the witnesses
	maxBody      = 256 << 10        // more than any form of these pages has
	maxName      = 100              // characters of a person's name
)

// contentSecurityPolicy lets a page load its own style sheet and script, and send its
// forms to where it came from; nothing else.
const contentSecurityPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

type handler struct {
	box     *outbox.Outbox
	options Options
	origin  *http.CrossOriginProtection
	last    lastStatus
	clicks  clicks
}

// page is what a request leads to.
type page struct {
	status   int    // 0 is 200
	template string // in templates, without .html
	title    string
	data     any
	seeOther string // a relative address to go to instead
}

// route is what the handler does at one address.
type route struct {
	get, post func(h *handler, r *http.Request) page
}

// routes are the pages, by the last part of their path: whatever is before it is where
// the shop mounted them. So every link is relative, and no page needs to know.
var routes = map[string]route{
	"":        {get: (*handler).overview},
	"changes": {get: (*handler).changes},
	"change":  {get: (*handler).change},
	"decide":  {post: (*handler).decide},
	"resume":  {get: (*handler).askResume, post: (*handler).resume},
}

//go:embed style.css refresh.js templates
var files embed.FS

// assets are the files that a page loads, with their types.
var assets = map[string]string{
	"style.css":  "text/css; charset=utf-8",
	"refresh.js": "text/javascript; charset=utf-8",
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", contentSecurityPolicy)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	if kind, ok := assets[name]; ok && reading {
		text, _ := files.ReadFile(name)
		header.Set("Content-Type", kind)
		_, _ = w.Write(text)
		return
	}
	h.write(w, r, h.respond(r, name, reading, header))
}

// respond finds the page, or says why there is none.
func (h *handler) respond(r *http.Request, name string, reading bool, header http.Header) page {
	route, ok := routes[name]
	asked, _, _ := strings.Cut(r.RequestURI, "?")
	switch {
	case r.URL.Path == "" && !strings.HasSuffix(asked, "/"): // from here relative links lead one level too high
		return page{status: http.StatusSeeOther, seeOther: "./" + asked[strings.LastIndexByte(asked, '/')+1:] + "/"}
	case !ok:
		return message(http.StatusNotFound, "There is no such page", "The address of these pages ends with a slash.")
	case reading && route.get != nil:
		return route.get(h, r)
	case r.Method != http.MethodPost || route.post == nil:
		header.Set("Allow", allowed(route))
		return message(http.StatusMethodNotAllowed, "This page does not do that",
			"A decision begins at the change that it is about.")
	case h.origin.Check(r) != nil:
		return message(http.StatusForbidden, "Nothing was done: the request came from another site",
			"Decisions are accepted only from the pages of this outbox.")
	case h.writer(r) == "":
		return message(http.StatusForbidden, "Nothing was done: you may read, and not decide", h.readOnly(r))
	}
	r.Body = http.MaxBytesReader(nil, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		return message(http.StatusBadRequest, "Nothing was done: the form could not be read", "")
	}
	return route.post(h, r)
}

func allowed(r route) string {
	var methods []string
	if r.get != nil {
		methods = append(methods, http.MethodGet, http.MethodHead)
	}
	if r.post != nil {
		methods = append(methods, http.MethodPost)
	}
	return strings.Join(methods, ", ")
}

// writer returns the name of the person who makes a request if he may decide, else "".
func (h *handler) writer(r *http.Request) string {
	if !h.options.AllowWrites || h.options.User == nil {
		return ""
	}
	name := []rune(strings.TrimSpace(strings.ToValidUTF8(strings.ReplaceAll(h.options.User(r), "\x00", ""), "")))
	return strings.TrimSpace(string(name[:min(len(name), maxName)]))
}

// readOnly says why the person who makes a request may not decide; "" if he may.
func (h *handler) readOnly(r *http.Request) string {
	switch {
	case h.writer(r) != "":
		return ""
	case !h.options.AllowWrites:
		return "Decisions are switched off here."
	default:
		return "A decision is kept with a name, and the shop did not say who you are."
	}
}

// messageData is a page of a heading and a sentence.
type messageData struct {
	Heading, Text string
}

func message(status int, heading, text string) page {
	return page{status: status, template: "message", title: heading, data: messageData{heading, text}}
}

// failed is the page for a database that fails.
func (h *handler) failed(r *http.Request, err error) page {
	slog.ErrorContext(r.Context(), "outboxweb: the database failed", "error", err)
	return message(http.StatusServiceUnavailable, "The database does not respond",
		"This page cannot be shown now. Nothing was changed by looking at it; try again in a moment.")
}

// reads returns the context of the reads for a page.
func reads(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, readTimeout)
}

// writes returns the context of a write. It goes on if the person leaves the page or
// clicks twice, which breaks off the first request.
func writes(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
}

// layoutData is what the layout of every page shows.
type layoutData struct {
	Title    string
	Page     string // the template
	User     string // who may decide
	ReadOnly string // why the person may not
	Data     any
}

// templates are the pages, each with the layout around it.
var templates = func() map[string]*template.Template {
	layout := template.Must(template.New("layout.html").Funcs(functions).ParseFS(files, "templates/layout.html", "templates/parts.html"))
	all := make(map[string]*template.Template)
	entries, err := files.ReadDir("templates")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		all[strings.TrimSuffix(e.Name(), ".html")] = template.Must(template.Must(layout.Clone()).ParseFS(files, "templates/"+e.Name()))
	}
	return all
}()

// write sends a page. It is rendered first, so that a failure sends no half of it.
func (h *handler) write(w http.ResponseWriter, r *http.Request, p page) {
	if p.seeOther != "" {
		w.Header().Set("Location", p.seeOther)
		w.WriteHeader(p.status)
		return
	}
	var text bytes.Buffer
	err := templates[p.template].ExecuteTemplate(&text, "layout.html", layoutData{
		Title: p.title, Page: p.template, User: h.writer(r), ReadOnly: h.readOnly(r), Data: p.data,
	})
	if err != nil {
		slog.ErrorContext(r.Context(), "outboxweb: a page could not be made", "page", p.template, "error", err)
		http.Error(w, "This page could not be made; the log says why.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if p.status != 0 {
		w.WriteHeader(p.status)
	}
	_, _ = w.Write(text.Bytes()) // the person may have gone
}

// clicks remembers which forms were sent, by the token that each has, so that a second
// click on a button gives the page that the first one gave, and decides nothing.
type clicks struct {
	mu     sync.Mutex
	recent []*click
}

type click struct {
	by, token string
	once      sync.Once
	page      page
}

const maxClicks = 200

// once returns the page that do returned for this person's form, and calls it if it was
// not called yet. What failed may be tried again.
func (c *clicks) once(by, token string, do func() page) page {
	k := c.find(by, token)
	k.once.Do(func() { k.page = do() })
	if k.page.status >= http.StatusBadRequest {
		c.forget(k)
	}
	return k.page
}

func (c *clicks) find(by, token string) *click {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.recent {
		if k.by == by && k.token == token && token != "" {
			return k
		}
	}
	k := &click{by: by, token: token}
	c.recent = append(c.recent, k)
	if len(c.recent) > maxClicks {
		c.recent = c.recent[1:]
	}
	return k
}

func (c *clicks) forget(k *click) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recent = slices.DeleteFunc(c.recent, func(other *click) bool { return other == k })
}
