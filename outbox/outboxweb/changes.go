package outboxweb

import (
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/oakra/oakra-go/outbox"
)

const (
	pageRows  = 50       // changes on a page, and in one decision
	pageBytes = 44 << 10 // of rows on a page, so that the page stays below 60 KB whatever the changes are named
	maxEvents = 100      // on the page of a change
)

// states are the tabs of the list.
var states = []struct{ Value, Name string }{
	{"parked", "Parked"}, {"pending", "Pending"}, {"sent", "Being sent"}, {"applied", "Applied"}, {"dropped", "Dropped"}, {"all", "All"},
}

// changesData is what a list of changes shows.
type changesData struct {
	States        any
	State         string
	SKU, Location string
	Rows          []template.HTML
	Older, First  string // addresses; "" if there is none
	Filters       bool   // whether this state can be filtered
	Decide        bool   // whether changes can be selected
}

// Filtered reports whether the list shows some stock records only.
func (d changesData) Filtered() bool { return d.SKU != "" || d.Location != "" }

func (h *handler) changes(r *http.Request) page {
	q := r.URL.Query()
	d := changesData{States: states, State: q.Get("state"), SKU: q.Get("sku"), Location: q.Get("location")}
	if d.State == "" {
		d.State = "parked"
	}
	f := outbox.Filter{State: outbox.State(d.State), SKU: d.SKU, LocationID: d.Location, Limit: pageRows + 1}
	if d.State == "all" {
		f.State = ""
	}
	d.Filters = f.State == outbox.StateParked || f.State == outbox.StatePending
	d.Decide = f.State == outbox.StateParked && h.writer(r) != ""
	var err error
	if before := q.Get("before"); before != "" {
		f.Before, err = strconv.ParseInt(before, 10, 64)
	}
	known := slices.ContainsFunc(states, func(s struct{ Value, Name string }) bool { return s.Value == d.State })
	if err != nil || f.Before < 0 || !known || d.Filtered() && !d.Filters {
		return message(http.StatusBadRequest, "There is no such list", "Choose one of the states, or find a change by its ID.")
	}
	ctx, cancel := reads(r.Context())
	defer cancel()
	entries, err := h.box.List(ctx, f)
	if err != nil {
		return h.failed(r, err)
	}
	d.Rows = rowsOf(entries[:min(len(entries), pageRows)], d.Decide, f.State == "")
	if n := len(d.Rows); n < len(entries) {
		d.Older = d.address(entries[n-1].Seq)
	}
	if f.Before > 0 {
		d.First = d.address(0)
	}
	return page{template: "changes", title: "Changes", data: d}
}

// address is that of the list from a number on.
func (d changesData) address(before int64) string {
	q := url.Values{"state": {d.State}}
	if d.SKU != "" {
		q.Set("sku", d.SKU)
	}
	if d.Location != "" {
		q.Set("location", d.Location)
	}
	if before > 0 {
		q.Set("before", strconv.FormatInt(before, 10))
	}
	return "changes?" + q.Encode()
}

// rowsOf returns the rows of a table, as many as a page may have.
func rowsOf(entries []outbox.Entry, decide, showState bool) (rows []template.HTML) {
	size := 0
	for _, e := range entries {
		var b strings.Builder
		err := templates["changes"].ExecuteTemplate(&b, "row", struct {
			outbox.Entry
			Decide, ShowState bool
		}{e, decide, showState})
		if err != nil {
			panic(err) // a mistake in the template
		}
		if size += b.Len(); size > pageBytes && len(rows) > 0 {
			break
		}
		rows = append(rows, template.HTML(b.String())) //nolint:gosec // made by the template, which escapes
	}
	return rows
}

// changeData is what the page of a change shows.
type changeData struct {
	outbox.Entry
	Order   string // its address; "" if there is none
	Events  []outbox.Event
	Earlier int // events that are left out
	Decide  bool
}

func (h *handler) change(r *http.Request) page {
	id := r.URL.Query().Get("id")
	ctx, cancel := reads(r.Context())
	defer cancel()
	found, err := h.box.Find(ctx, id)
	if err == nil && len(found) == 0 {
		found, err = h.box.Find(ctx, strings.TrimSpace(id)) // it may have been pasted
	}
	if err != nil {
		return h.failed(r, err)
	}
	if len(found) == 0 {
		return page{status: http.StatusNotFound, template: "unknown", title: "No such change", data: id}
	}
	d := changeData{Entry: found[0], Order: h.order(found[0].ID)}
	d.Decide = d.State == outbox.StateParked && h.writer(r) != ""
	if d.Events, err = h.box.History(ctx, d.ID); err != nil {
		return h.failed(r, err)
	}
	d.Earlier = max(0, len(d.Events)-maxEvents)
	d.Events = d.Events[d.Earlier:]
	return page{template: "change", title: "Change " + visible(d.ID), data: d}
}

// order returns the address of the order that a change belongs to, "" if there is none
// that a browser should follow.
func (h *handler) order(id string) string {
	if h.options.Link == nil {
		return ""
	}
	address := h.options.Link(id)
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https" {
		return ""
	}
	return address
}
