package webtest

import (
	"database/sql"
	"html"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/outbox"
	"github.com/oakra/oakra-go/outbox/outboxweb"
)

// pagesOf are pages of each kind, with a parked change.
func (s *shop) pagesOf(id string) map[string]answer {
	return map[string]answer{
		"overview":  s.get(""),
		"parked":    s.get("changes"),
		"all":       s.get("changes?state=all"),
		"filtered":  s.get("changes?" + url.Values{"state": {"parked"}, "sku": {s.find(id).SKU}}.Encode()),
		"change":    s.get("change?" + url.Values{"id": {id}}.Encode()),
		"unknown":   s.get("change?" + url.Values{"id": {id + "?"}}.Encode()),
		"no page":   s.get("nothing"),
		"no list":   s.get("changes?state=x"),
		"resume":    s.get("resume"),
		"resend":    s.post("decide", url.Values{"action": {"resend"}, "id": {id}}),
		"applied":   s.post("decide", url.Values{"action": {"applied"}, "id": {id}}),
		"drop":      s.post("decide", url.Values{"action": {"drop"}, "id": {id}}),
		"no reason": s.post("decide", url.Values{"action": {"drop"}, "id": {id}, "confirmed": {"yes"}, "token": {`"><script>alert(1)</script>`}}),
		"conflict":  s.post("decide", url.Values{"action": {"drop"}, "id": {id, id + "?"}}),
		"nothing":   s.post("decide", nil),
		"style":     s.get("style.css"),
		"script":    s.get("refresh.js"),
	}
}

func TestHeaders(t *testing.T) {
	s := newShop(t, openSQLite(t))
	s.add("a/1", "sold-out-hat", -1)
	s.drain()
	for name, a := range s.pagesOf("a/1") {
		require.Equal(t, "no-store", a.header.Get("Cache-Control"), name)
		require.Equal(t, "nosniff", a.header.Get("X-Content-Type-Options"), name)
		require.Equal(t, "no-referrer", a.header.Get("Referrer-Policy"), name)
		policy := a.header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "style-src 'self'", "script-src 'self'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
			require.Contains(t, policy, want, name)
		}
		require.NotContains(t, policy, "unsafe", name)
		if name == "style" || name == "script" {
			continue
		}
		require.Equal(t, "text/html; charset=utf-8", a.header.Get("Content-Type"), name)
		require.NotRegexp(t, `style=|onclick=|<style|<script>`, a.text, name)
		require.NotRegexp(t, `(src|href|action)="?(https?:)?//`, a.text, name)
	}
}

// Whatever a change is named, it is shown as text, and its form still names it.
func TestHostileValues(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *sql.DB) {
		s := newShop(t, db)
		for name, value := range map[string]string{
			"script":        `<script>alert(1)</script>`,
			"attribute":     `" onmouseover="alert(1)" x="`,
			"comment":       `--><img src=x onerror=alert(1)>`,
			"entity":        `&lt;b&gt; &#0; %3Cscript%3E`,
			"path":          `../../etc/passwd?x=1#y&id=2`,
			"template":      `{{.Token}}`,
			"right to left": "cap-\u202eyvan\u202c-\u2066x\u200f",
			"control":       "a\tb\nc\x1bd\u0085e\u2028f",
			"spaces":        "  cap-navy ",
			"long":          strings.Repeat(`"`, 200),
		} {
			id := value
			require.NoError(t, s.Add(t.Context(), outbox.Change{ID: id, SKU: value, LocationID: value, QuantityChange: -1}), name)
			_, err := db.Exec("UPDATE oakra_outbox_change SET state = 3, note = $1 WHERE id = $2", value, id)
			require.NoError(t, err)
			for page, a := range s.pagesOf(id) {
				if page == "style" || page == "script" {
					continue
				}
				require.NotContains(t, a.text, "<script>", "%s in %s", name, page)
				require.NotContains(t, a.text, "<img", "%s in %s", name, page)
				require.NotRegexp(t, ` onmouseover="`, a.text, "%s in %s", name, page)
				require.NotRegexp(t, "[\u202a-\u202e\u2066-\u2069\u200e\u200f]", visibleText(a.text), "%s in %s", name, page)
			}
			shown := s.get("change?" + url.Values{"id": {id}}.Encode())
			require.Equal(t, http.StatusOK, shown.status, name)
			require.Contains(t, html.UnescapeString(shown.text), `name="id" value="`+id+`"`, name)
			require.Equal(t, http.StatusSeeOther, s.confirm("drop", `<script>"why"</script>`, id).status, name)
			require.Equal(t, outbox.StateDropped, s.find(id).State, name)
			require.NotContains(t, s.get("change?"+url.Values{"id": {id}}.Encode()).text, "<script>", name)
		}
		require.Contains(t, s.get("change?id=++cap-navy+").words(), "␣␣cap-navy␣")
		require.Contains(t, s.get("changes?state=all").words(), "cap-⟨U+202E⟩yvan⟨U+202C⟩-⟨U+2066⟩x⟨U+200F⟩")
	})
}

// visibleText is what is between the tags.
func visibleText(text string) string { return html.UnescapeString(tags.ReplaceAllString(text, "")) }

// A page has at most 60 KB, with whatever names changes may have.
func TestPageSize(t *testing.T) {
	s := newShop(t, openSQLite(t))
	add := func(n int, text func(i, size int) string, note string) {
		var changes []outbox.Change
		for i := range n {
			changes = append(changes, outbox.Change{ID: text(i, 200), SKU: text(i, 500), LocationID: text(i, 500), QuantityChange: -1 << 40})
		}
		require.NoError(t, s.Add(t.Context(), changes...))
		_, err := s.db.Exec("UPDATE oakra_outbox_change SET state = 3, note = $1", note)
		require.NoError(t, err)
	}
	number := func(i int) string { return string(rune('a'+i/26)) + string(rune('a'+i%26)) }
	check := func(atLeast int) {
		seen, path := 0, "changes"
		var ids []string
		for path != "" {
			list := s.get(path)
			require.Equal(t, http.StatusOK, list.status)
			require.LessOrEqual(t, len(list.text), 60_000)
			rows := strings.Split(list.text, `type="checkbox" name="id" value="`)[1:]
			seen += len(rows)
			if ids == nil {
				for _, row := range rows {
					id, _, _ := strings.Cut(row, `"`)
					ids = append(ids, html.UnescapeString(id))
				}
			}
			_, path, _ = strings.Cut(list.text, `<a href="`+"changes?before=")
			if path, _, _ = strings.Cut(path, `"`); path != "" {
				path = "changes?before=" + html.UnescapeString(path)
			}
		}
		require.Equal(t, 60, seen, "no change is left out")
		require.GreaterOrEqual(t, len(ids), atLeast)
		require.LessOrEqual(t, len(s.post("decide", url.Values{"action": {"resend"}, "id": ids}).text), 60_000)
		require.LessOrEqual(t, len(s.get("change?"+url.Values{"id": ids[:1]}.Encode()).text), 60_000)
	}
	add(60, func(i, _ int) string { return "order-2026-10" + number(i) + "/1" }, "not known: Oakra has no stock record of this SKU and location")
	check(50)
	_, err := s.db.Exec("DELETE FROM oakra_outbox_change")
	require.NoError(t, err)
	add(60, func(i, size int) string { return number(i) + strings.Repeat(`"`, size-2) }, strings.Repeat("<", 2000))
	check(1)
}

func TestMethodsAndUnknownPages(t *testing.T) {
	s := newShop(t, openSQLite(t))
	for path, status := range map[string]int{"nothing": http.StatusNotFound, "a/b/c": http.StatusNotFound, "templates/layout.html": http.StatusNotFound, "change?id=none": http.StatusNotFound, "decide": http.StatusMethodNotAllowed} {
		a := s.get(path)
		require.Equal(t, status, a.status, path)
		require.Contains(t, a.text, `<a href="./">overview</a>`, path)
	}
	require.Contains(t, s.get("change?id=none").words(), "There is no change none")
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions, http.MethodPost} {
		r, err := http.NewRequest(method, s.web.URL+s.prefix+"changes", nil)
		require.NoError(t, err)
		a := s.do(r)
		require.Equal(t, http.StatusMethodNotAllowed, a.status, method)
		require.Equal(t, "GET, HEAD", a.header.Get("Allow"), method)
	}
	r, err := http.NewRequest(http.MethodHead, s.web.URL+s.prefix, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, s.do(r).status)
}

// Only somebody with a name decides, only where writes are allowed, and only from the
// pages themselves.
func TestWhoMayDecide(t *testing.T) {
	s := newShop(t, openSQLite(t))
	s.add("a/1", "sold-out-hat", -1)
	s.drain()
	s.halt()
	decision := url.Values{"action": {"drop"}, "id": {"a/1"}, "confirmed": {"yes"}, "note": {"x"}}
	resumption := url.Values{"restored": {"no"}, "note": {"x"}}
	refused := func(name string, why string) {
		for path, form := range map[string]url.Values{"decide": decision, "resume": resumption} {
			a := s.post(path, form)
			require.Equal(t, http.StatusForbidden, a.status, name)
			require.Contains(t, a.words(), why, name)
		}
		require.Equal(t, outbox.StateParked, s.find("a/1").State, name)
		require.NotEmpty(t, s.status().Halted, name)
		for _, path := range []string{"", "changes", "change?id=a/1", "resume"} {
			require.Equal(t, http.StatusOK, s.get(path).status, name)
			require.NotContains(t, s.get(path).text, `method="post" action="decide"><`, name)
			require.NotContains(t, s.get(path).text, `action="resume"`, name)
			require.NotContains(t, s.get(path).text, `name="action"`, name)
		}
	}
	anna := func(*http.Request) string { return "Anna" }
	s.serve(outboxweb.Options{})
	refused("no options", "Decisions are switched off here.")
	s.serve(outboxweb.Options{User: anna})
	refused("no writes", "Decisions are switched off here.")
	s.serve(outboxweb.Options{AllowWrites: true})
	refused("no User", "the shop did not say who you are")
	s.serve(outboxweb.Options{AllowWrites: true, User: func(*http.Request) string { return " \x00\xff" }})
	refused("a blank name", "the shop did not say who you are")

	s.serve(outboxweb.Options{AllowWrites: true, User: anna})
	for name, header := range map[string]http.Header{
		"Sec-Fetch-Site": {"Sec-Fetch-Site": {"cross-site"}},
		"same site":      {"Sec-Fetch-Site": {"same-site"}},
		"Origin":         {"Origin": {"https://evil.example"}},
		"null":           {"Origin": {"null"}},
	} {
		for path, form := range map[string]url.Values{"decide": decision, "resume": resumption} {
			r, err := http.NewRequest(http.MethodPost, s.web.URL+s.prefix+path, strings.NewReader(form.Encode()))
			require.NoError(t, err)
			r.Header = header.Clone()
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			a := s.do(r)
			require.Equal(t, http.StatusForbidden, a.status, name)
			require.Contains(t, a.words(), "Nothing was done: the request came from another site", name)
		}
	}
	r, err := http.NewRequest(http.MethodPost, s.web.URL+s.prefix+"decide", strings.NewReader("note="+strings.Repeat("x", 1<<20)))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	require.Equal(t, http.StatusBadRequest, s.do(r).status)
	require.Equal(t, outbox.StateParked, s.find("a/1").State)
	require.NotEmpty(t, s.status().Halted)
	require.Equal(t, http.StatusSeeOther, s.post("decide", decision).status)
	require.Equal(t, http.StatusSeeOther, s.post("resume", resumption).status)
}

// A link that Options.Link returns is followed only if a browser may open it.
func TestLink(t *testing.T) {
	s := newShop(t, openSQLite(t))
	s.add("a/1", "sold-out-hat", -1)
	for address, shown := range map[string]bool{
		"": false, "javascript:alert(1)": false, "JavaScript:alert(1)": false, "data:text/html,x": false, " javascript:alert(1)": false, "%zz": false,
		"/orders/a": true, "../orders?id=a": true, "https://shop.example/a": true,
	} {
		s.serve(outboxweb.Options{Link: func(id string) string {
			require.Equal(t, "a/1", id)
			return address
		}})
		page := s.get("change?id=a/1").text
		require.Equal(t, shown, strings.Contains(page, "Show the order"), address)
		require.NotContains(t, page, "alert(1)", address)
	}
}

// No page has the app key or the password of the database.
func TestNoSecrets(t *testing.T) {
	if why := postgresMissing(); why != "" {
		t.Skip("LEFT OUT: PostgreSQL, " + why)
	}
	s := newShop(t, openPostgres(t))
	s.add("a/1", "sold-out-hat", -1)
	s.drain()
	check := func() {
		for name, a := range s.pagesOf("a/1") {
			require.NotContains(t, a.text, appKey, name)
			require.NotContains(t, a.text, "hunter2", name)
			require.NotContains(t, a.text, shared.dir, name)
		}
	}
	check()
	s.halt()
	check()
	s.oakra.Key = "revoked" // Resume fails
	a := s.post("resume", url.Values{"restored": {"no"}, "note": {"x"}})
	require.Equal(t, http.StatusBadGateway, a.status)
	require.Contains(t, a.words(), "401")
	require.NotContains(t, a.text, appKey)
}
