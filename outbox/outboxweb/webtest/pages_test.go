package webtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/outbox"
	"github.com/oakra/oakra-go/outbox/outboxweb"
)

var (
	links = regexp.MustCompile(`(?:href|src|action)="([^"#]*)`)
	tags  = regexp.MustCompile(`<[^>]*>`)
	token = regexp.MustCompile(`name="token" value="([^"]+)"`)
)

// words is the text of a page, as a person reads it.
func (a answer) words() string {
	return strings.Join(strings.Fields(html.UnescapeString(tags.ReplaceAllString(a.text, " "))), " ")
}

// Every link of every page leads to a page, wherever the shop mounts the handler.
func TestMounting(t *testing.T) {
	s := newShop(t, openSQLite(t))
	s.add("order-1/1", "sold-out-hat", -1)
	s.drain()
	pages := outboxweb.Handler(s.Outbox, outboxweb.Options{AllowWrites: true, User: func(*http.Request) string { return "Anna" }})
	for name, test := range map[string]struct {
		pattern string
		handler http.Handler
		begin   string
	}{
		"at the root":                     {"/", pages, "/"},
		"without StripPrefix":             {"/admin/outbox/", pages, "/admin/outbox/"},
		"StripPrefix":                     {"/admin/outbox/", http.StripPrefix("/admin/outbox", pages), "/admin/outbox/"},
		"StripPrefix with a slash":        {"/admin/outbox/", http.StripPrefix("/admin/outbox/", pages), "/admin/outbox/"},
		"StripPrefix and no slash at all": {"/", http.StripPrefix("/admin/outbox", pages), "/admin/outbox"},
	} {
		t.Run(name, func(t *testing.T) {
			mux := http.NewServeMux()
			mux.Handle(test.pattern, test.handler)
			web := httptest.NewServer(mux)
			defer web.Close()
			seen := map[string]bool{}
			var visit func(address string)
			visit = func(address string) {
				u, err := url.Parse(address)
				require.NoError(t, err)
				if seen[u.Path+"?"+u.RawQuery] {
					return
				}
				seen[u.Path+"?"+u.RawQuery] = true
				response, err := http.Get(address)
				require.NoError(t, err)
				defer response.Body.Close()
				text, err := io.ReadAll(response.Body)
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, response.StatusCode, address)
				for _, link := range links.FindAllStringSubmatch(string(text), -1) {
					next, err := response.Request.URL.Parse(html.UnescapeString(link[1]))
					require.NoError(t, err)
					if next.Path == strings.TrimSuffix(test.begin, "/")+"/decide" || next.Path == strings.TrimSuffix(test.begin, "/")+"/change" && next.RawQuery == "" {
						continue // a form
					}
					visit(next.String())
				}
			}
			visit(web.URL + test.begin)
			require.True(t, seen[strings.TrimSuffix(test.begin, "/")+"/change?id=order-1%2f1"], "%v", seen)
			require.True(t, seen[strings.TrimSuffix(test.begin, "/")+"/style.css?"], "%v", seen)
			require.True(t, seen[strings.TrimSuffix(test.begin, "/")+"/refresh.js?"], "%v", seen)
		})
	}
}

func TestOverview(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *sql.DB) {
		s := newShop(t, db)
		require.Contains(t, s.get("").words(), "Working The outbox works, and nothing waits.")
		s.add("order-1/1", "shirt-blue-m", -2)
		require.Contains(t, s.get("").words(), "Not sending No process dispatches, and 1 change waits to be sent.")
		s.add("order-1/2", "sold-out-hat", -1)
		s.drain()
		overview := s.get("")
		require.Contains(t, overview.words(), "Needs a decision The outbox works. 1 change waits for a decision.")
		require.Contains(t, overview.words(), "Requests 2 sent to Oakra")
		require.Regexp(t, `Read at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [A-Z+]`, overview.words())
		require.NotContains(t, overview.words(), "step by step")

		s.halt()
		overview = s.get("")
		require.Contains(t, overview.words(), "Halted Nothing is sent until a person resumes. Orders are still recorded.")
		require.Contains(t, overview.words(), "+4711 and ")
		require.Contains(t, overview.words(), "What to do, step by step")
	})
}

// The overview says what to do after a halt as OPERATING.md does.
func TestStepsAreThoseOfTheHandbook(t *testing.T) {
	handbook, err := os.ReadFile("../../OPERATING.md")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("OPERATING.md is in the repository only")
	}
	require.NoError(t, err)
	_, steps, found := strings.Cut(string(handbook), "## After a halt, step by step\n")
	require.True(t, found)
	steps, _, _ = strings.Cut(steps, "\n## ")
	s := newShop(t, openSQLite(t))
	s.halt()
	page := strings.ToLower(strings.ReplaceAll(s.get("").words(), "’", "'"))
	marked := regexp.MustCompile(`\*\*([^*]+?)[.:]?\*\*|\*([^*]+?)\.?\*`).FindAllStringSubmatch(steps, -1)
	require.Len(t, marked, 12)
	for _, m := range marked {
		require.Contains(t, page, strings.ToLower(strings.Join(strings.Fields(strings.ReplaceAll(m[1]+m[2], "`", "")), " ")))
	}
}

// While the database is down, the overview shows how old its numbers are, and never
// zeros that were not read.
func TestDatabaseDown(t *testing.T) {
	check := func(t *testing.T, s *shop, fail, heal func()) {
		s.add("order-1/1", "sold-out-hat", -1)
		s.drain()
		fail()
		for range 2 {
			overview := s.get("")
			require.Equal(t, http.StatusServiceUnavailable, overview.status)
			require.Contains(t, overview.words(), "Unknown The database does not respond, and was not read since this page was started: nothing is known yet. Not read yet")
			require.NotContains(t, overview.words(), "Parked")
			require.NotRegexp(t, `\b0\b`, overview.words())
		}
		if heal == nil {
			return
		}
		heal()
		require.Contains(t, s.get("").words(), "Needs a decision")
		fail()
		overview := s.get("")
		require.Equal(t, http.StatusServiceUnavailable, overview.status)
		require.Regexp(t, `Unknown The database does not respond\. What is shown below was read \d+ seconds? ago, at \d{4}-`, overview.words())
		require.Contains(t, overview.words(), "Parked 1 wait for a person’s decision")
		require.Contains(t, overview.words(), "Taken back 0 had counted", "it was read")
		for _, path := range []string{"changes", "changes?state=all", "change?id=order-1/1"} {
			page := s.get(path)
			require.Equal(t, http.StatusServiceUnavailable, page.status, path)
			require.Contains(t, page.words(), "The database does not respond")
			require.NotContains(t, page.text, "hunter2")
		}
		page := s.post("decide", url.Values{"id": {"order-1/1"}, "action": {"drop"}, "confirmed": {"yes"}, "token": {"a"}, "note": {"cancelled"}})
		require.Equal(t, http.StatusServiceUnavailable, page.status)
		require.Contains(t, page.words(), "It may have been recorded, or not.")
		heal()
		page = s.post("decide", url.Values{"id": {"order-1/1"}, "action": {"drop"}, "confirmed": {"yes"}, "token": {"a"}, "note": {"cancelled"}})
		require.Equal(t, http.StatusSeeOther, page.status, "the same form may be sent again")
		require.Equal(t, outbox.StateDropped, s.find("order-1/1").State)
	}
	t.Run("sqlite", func(t *testing.T) {
		s := newShop(t, openSQLite(t))
		check(t, s, func() { require.NoError(t, s.db.Close()) }, nil)
	})
	t.Run("postgres", func(t *testing.T) {
		if why := postgresMissing(); why != "" {
			t.Skip("LEFT OUT: PostgreSQL, " + why)
		}
		c, err := newCluster()
		require.NoError(t, err)
		defer c.remove()
		db, err := sql.Open("pgx", c.dsn())
		require.NoError(t, err)
		defer db.Close()
		s := newShop(t, db)
		check(t, s, func() { require.NoError(t, c.stop()) }, func() {
			require.NoError(t, c.start())
			require.Eventually(t, func() bool { return db.Ping() == nil }, timeLimit, tick)
		})
	})
}

func TestLists(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *sql.DB) {
		s := newShop(t, db)
		var changes []outbox.Change
		for i := range 120 {
			changes = append(changes, outbox.Change{ID: fmt.Sprintf("order-%03d/1", i), SKU: []string{"sold-out-hat", "sold-out-scarf"}[i%2],
				LocationID: []string{"warehouse-1", "warehouse-2", "warehouse-3"}[i/2%3], QuantityChange: -1})
		}
		require.NoError(t, s.Add(t.Context(), changes...))
		s.add("sold/1", "shirt-blue-m", -1)
		require.Contains(t, s.get("changes?state=pending").words(), "sold/1")
		s.drain()
		ids := regexp.MustCompile(`>(order-\d+/\d)<`)
		older := regexp.MustCompile(`<a href="([^"]+)" rel="next">`)
		walk := func(path string) (all []string) {
			for {
				page := s.get(path)
				require.Equal(t, http.StatusOK, page.status)
				for _, m := range ids.FindAllStringSubmatch(page.text, -1) {
					all = append(all, m[1])
				}
				next := older.FindStringSubmatch(page.text)
				if next == nil {
					return all
				}
				path = html.UnescapeString(next[1])
			}
		}
		all := walk("changes")
		require.Len(t, all, 120)
		for i, id := range all {
			require.Equal(t, fmt.Sprintf("order-%03d/1", 119-i), id)
		}
		require.Len(t, walk("changes?state=parked&sku=sold-out-hat"), 60)
		require.Len(t, walk("changes?state=parked&location=warehouse-2"), 40)
		require.Len(t, walk("changes?state=parked&sku=sold-out-hat&location=warehouse-3"), 20)
		require.Contains(t, s.get("changes?state=parked&sku=other").words(), "No change matches.")
		require.Contains(t, s.get("changes?state=applied").words(), "sold/1")
		require.Contains(t, s.get("changes?state=all").words(), "sold/1 −1 shirt-blue-m at warehouse-1 applied")
		require.Contains(t, s.get("changes?state=dropped").words(), "There are no changes here.")
		for _, path := range []string{"changes?state=lost", "changes?before=x", "changes?before=-1", "changes?state=applied&sku=a"} {
			require.Equal(t, http.StatusBadRequest, s.get(path).status, path)
		}
	})
}

// confirm goes through a decision on changes as a person does.
func (s *shop) confirm(action, note string, ids ...string) answer {
	asked := s.post("decide", url.Values{"action": {action}, "id": ids})
	require.Equal(s.t, http.StatusOK, asked.status, asked.words())
	return s.post("decide", confirmation(asked, action, note, ids...))
}

// confirmation is the form of the page that asks for it, filled in.
func confirmation(asked answer, action, note string, ids ...string) url.Values {
	return url.Values{"action": {action}, "id": ids, "confirmed": {"yes"}, "note": {note}, "token": {token.FindStringSubmatch(asked.text)[1]}}
}

func TestDecide(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *sql.DB) {
		s := newShop(t, db)
		for _, id := range []string{"a/1", "a/2", "b/1", "b/2", "b/3"} {
			s.add(id, "sold-out-hat", -2)
		}
		s.drain()
		page := s.get("change?id=a%2F1")
		require.Contains(t, page.words(), "parked waits for a decision Reason ")
		require.Contains(t, page.text, `<a href="/orders/a">Show the order</a>`)
		require.Contains(t, s.get("change?id=%20a%2F1%20").words(), "Change a/1", "an ID that was pasted with spaces")

		asked := s.post("decide", url.Values{"action": {"resend"}, "id": {"a/1"}})
		require.Contains(t, asked.words(), "Sends −2 of sold-out-hat at warehouse-1 again: stock goes down by 2 when Oakra applies it.")
		require.Equal(t, outbox.StateParked, s.find("a/1").State, "asking decides nothing")
		unexplained := s.post("decide", confirmation(asked, "resend", " \n ", "a/1"))
		require.Equal(t, http.StatusUnprocessableEntity, unexplained.status)
		require.Contains(t, unexplained.words(), "Write down why")
		require.Equal(t, http.StatusUnprocessableEntity, s.post("decide", confirmation(asked, "resend", strings.Repeat("ö", 501), "a/1")).status)
		require.Equal(t, outbox.StateParked, s.find("a/1").State)

		s.set(soldOut, 100)
		decided := s.post("decide", confirmation(unexplained, "resend", "the hat is\r\nin stock", "a/1"))
		require.Equal(t, http.StatusSeeOther, decided.status)
		require.Equal(t, "change?id=a%2F1", decided.header.Get("Location"))
		s.drain()
		page = s.get(decided.header.Get("Location"))
		require.Contains(t, page.words(), "applied counted in Oakra")
		require.Contains(t, page.words(), "resolved by Anna resend: the hat is in stock")
		require.Equal(t, int64(98), s.quantity(soldOut))

		asked = s.post("decide", url.Values{"action": {"applied"}, "id": {"a/2"}})
		require.Contains(t, asked.words(), "Marks as applied: the stock does not change.")
		require.Equal(t, http.StatusSeeOther, s.confirm("applied", "counted by hand", "a/2").status)
		require.Equal(t, outbox.StateApplied, s.find("a/2").State)

		asked = s.post("decide", url.Values{"action": {"drop"}, "id": {"b/1", "b/2"}})
		require.Contains(t, asked.words(), "Drops: the stock does not change.")
		many := s.confirm("drop", "cancelled", "b/1", "b/2")
		require.Equal(t, http.StatusOK, many.status)
		require.Contains(t, many.words(), "2 changes were decided They are dropped.")
		require.Contains(t, many.words(), "b/2 : dropped given up")
		require.Equal(t, outbox.StateDropped, s.find("b/1").State)
		s.drain()
		require.Equal(t, int64(98), s.quantity(soldOut), "only what was sent again counts")
		require.Equal(t, outbox.StateParked, s.find("b/3").State)

		for name, form := range map[string]url.Values{
			"nothing selected": {"action": {"drop"}},
			"no decision":      {"id": {"b/3"}},
			"a wrong decision": {"id": {"b/3"}, "action": {"explode"}},
			"too many":         {"id": manyIDs(51), "action": {"drop"}},
		} {
			require.Equal(t, http.StatusBadRequest, s.post("decide", form).status, name)
		}
	})
}

func manyIDs(n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprintf("id-%d", i))
	}
	return ids
}

// The second of two people who decide is told, and nothing happens twice.
func TestTwoPeople(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *sql.DB) {
		s := newShop(t, db)
		s.add("a/1", "sold-out-hat", -2)
		s.add("a/2", "sold-out-hat", -2)
		s.drain()
		anna := s.post("decide", url.Values{"action": {"drop"}, "id": {"a/1"}})
		s.user = "Bert"
		bert := s.post("decide", url.Values{"action": {"resend"}, "id": {"a/1", "a/2"}})
		s.user = "Anna"
		require.Equal(t, http.StatusSeeOther, s.post("decide", confirmation(anna, "drop", "cancelled", "a/1")).status)
		s.user = "Bert"
		told := s.post("decide", confirmation(bert, "resend", "exists now", "a/1", "a/2"))
		require.Equal(t, http.StatusConflict, told.status)
		require.Contains(t, told.words(), "Nothing was decided A change is no longer parked: somebody has decided meanwhile")
		require.Contains(t, told.words(), "a/1 : dropped given up")
		require.Contains(t, told.words(), "resolved by Anna : drop: cancelled")
		require.Contains(t, told.words(), "One other change is still parked.")
		require.Equal(t, outbox.StateParked, s.find("a/2").State, "all or none")
		require.Equal(t, http.StatusConflict, s.post("decide", url.Values{"action": {"resend"}, "id": {"a/1"}}).status, "before it asks")
		require.Equal(t, http.StatusConflict, s.post("decide", url.Values{"action": {"resend"}, "id": {"a/1", "nobody"}}).status)
	})
}

// A double click sends a form twice at once, and decides once. The browser breaks off
// the first request.
func TestDoubleClick(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *sql.DB) {
		s := newShop(t, db)
		s.add("a/1", "sold-out-hat", -2)
		s.drain()
		s.run() // it is rejected again at once, so a second decision would be accepted
		asked := s.post("decide", url.Values{"action": {"resend"}, "id": {"a/1"}})
		form := confirmation(asked, "resend", "try", "a/1")
		var both sync.WaitGroup
		for range 4 {
			both.Go(func() {
				decided := s.post("decide", form)
				if decided.status != http.StatusSeeOther {
					t.Errorf("%d: %s", decided.status, decided.words())
				}
			})
		}
		both.Wait()
		require.Eventually(t, func() bool { return s.find("a/1").State == outbox.StateParked }, timeLimit, tick)
		require.Equal(t, http.StatusSeeOther, s.post("decide", form).status, "an old page that is loaded again")
		require.Equal(t, 1, s.resolved("a/1"))

		form = confirmation(s.post("decide", url.Values{"action": {"drop"}, "id": {"a/1"}}), "drop", "enough", "a/1")
		ctx, leave := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, mounted+"decide", strings.NewReader(form.Encode()))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		leave()
		s.web.Config.Handler.ServeHTTP(httptest.NewRecorder(), r)
		require.Equal(t, outbox.StateDropped, s.find("a/1").State, "a person who leaves has decided all the same")
	})
}

// resolved counts the decisions on a change.
func (s *shop) resolved(id string) (n int) {
	history, err := s.History(s.t.Context(), id)
	require.NoError(s.t, err)
	for _, e := range history {
		if e.Action == "resolved" {
			n++
		}
	}
	return n
}

func TestResume(t *testing.T) {
	for _, restored := range []string{"no", "yes"} {
		t.Run("restored "+restored, func(t *testing.T) {
			eachDatabase(t, func(t *testing.T, db *sql.DB) {
				s := newShop(t, db)
				require.Contains(t, s.get("resume").words(), "The outbox is not halted")
				require.Equal(t, http.StatusConflict, s.post("resume", url.Values{"restored": {"no"}, "note": {"x"}}).status)
				s.halt()
				asked := s.get("resume")
				require.Contains(t, asked.words(), "Was the shop’s database restored, or did a failover lose commits?")
				require.Contains(t, asked.words(), "Now 1 change is not settled.")
				form := url.Values{"token": {token.FindStringSubmatch(asked.text)[1]}, "note": {"somebody counted the head"}, "restored": {restored}}
				for _, missing := range []string{"note", "restored"} {
					half := url.Values{}
					for k, v := range form {
						if k != missing {
							half[k] = v
						}
					}
					again := s.post("resume", half)
					require.Equal(t, http.StatusUnprocessableEntity, again.status, missing)
					require.Contains(t, again.words(), map[string]string{"note": "Write down why", "restored": "Choose one"}[missing])
				}
				require.NotEmpty(t, s.status().Halted)

				s.set(2, 5) // a witness with too few units
				failed := s.post("resume", form)
				require.Equal(t, http.StatusBadGateway, failed.status)
				require.Contains(t, failed.words(), "It could not resume, and nothing was changed: the witness \"outbox-tail\" at \"warehouse-1\" is missing or has too few units (5)")
				require.Contains(t, failed.text, "somebody counted the head", "what was written is kept")
				s.set(2, 200_000)
				for range 2 {
					resumed := s.post("resume", form)
					require.Equal(t, http.StatusSeeOther, resumed.status)
					require.Equal(t, "./", resumed.header.Get("Location"))
				}
				require.Empty(t, s.status().Halted)
				s.drain()
				if restored == "yes" {
					require.Equal(t, outbox.StateParked, s.find("at-halt").State)
					require.Contains(t, s.get("change?id=at-halt").words(), "by Anna the database was restored, so it may have been sent before: somebody counted the head")
				} else {
					require.Equal(t, outbox.StateApplied, s.find("at-halt").State)
				}
				form.Set("token", "another page")
				late := s.post("resume", form)
				require.Equal(t, http.StatusConflict, late.status)
				require.Contains(t, late.words(), "somebody has resumed it meanwhile")
			})
		})
	}
}

func (s *shop) status() outbox.Status {
	status, err := s.Status(s.t.Context())
	require.NoError(s.t, err)
	return status
}
