package main

import (
	"bytes"
	"database/sql"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

// TestMain is the shop in the processes that the demonstration starts.
func TestMain(m *testing.M) {
	if os.Getenv("SHOP_DATABASE") != "" {
		main()
	}
	os.Exit(m.Run())
}

// The whole demonstration, with one kill. It fails unless orders and stock agree.
func TestDemonstration(t *testing.T) {
	var out bytes.Buffer
	err := demonstrate(t.Context(), config{length: 3 * time.Second, kills: 1, seed: 7}, &out)
	require.NoError(t, err, out.String())
	require.Contains(t, out.String(), "Kills: 1. Confirmed orders lost: 0. Quantities wrong: 0 of 8.")
}

// Orders and stock that do not agree are an error.
func TestCompareFindsDifferences(t *testing.T) {
	for name, spoil := range map[string]func(d *demo){
		"an order that is lost": func(d *demo) { d.buyers.seen["c1-2"] = true },
		"a sale that counts twice": func(d *demo) {
			d.server.SetRecords(oakra.StockRecord{ID: 122, SKU: "shirt-blue-m", LocationID: warehouse, Quantity: 9_996})
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			d := &demo{out: &out, name: filepath.Join(t.TempDir(), "shop.db"), server: oakratest.Start(t, opening()...)}
			d.buyers.seen = map[string]bool{"c1-1": true}
			s := openShop(t, d.name, d.server)
			require.NoError(t, s.place(t.Context(), "c1-1", []line{{"shirt-blue-m", 2}}))
			require.NoError(t, s.outbox.Drain(t.Context()))
			require.NoError(t, d.compare(t.Context(), outbox.Status{}), out.String())
			spoil(d)
			require.Error(t, d.compare(t.Context(), outbox.Status{}), out.String())
		})
	}
}

func openShop(t *testing.T, name string, server *oakratest.Server) *shop {
	db, err := openDatabase(name)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	require.NoError(t, createTable(t.Context(), db))
	box, err := outbox.New(t.Context(), db, server.Client().Stock, outbox.Options{Witnesses: [2]oakra.StockKey{head, tail}})
	require.NoError(t, err)
	return &shop{db: db, outbox: box, password: "of the staff"}
}

// The checkout places an order once, however often it is asked to.
func TestCheckout(t *testing.T) {
	server := oakratest.Start(t, opening()...)
	s := openShop(t, filepath.Join(t.TempDir(), "shop.db"), server)
	ask := func(method, path, body string) (int, string) {
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	order := `[{"sku":"shirt-blue-m","units":2},{"sku":"no-such-hat","units":1}]`
	for range 2 {
		code, text := ask("PUT", "/orders/1001", order)
		require.Equal(t, http.StatusNoContent, code, text)
	}
	for _, test := range []struct {
		path, body, want string
		code             int
	}{
		{"/orders/1001", `[{"sku":"shirt-blue-m","units":3}]`, errTaken.Error(), http.StatusConflict},
		{"/orders/1002", `[]`, "a line", http.StatusBadRequest},
		{"/orders/1002", `[{"sku":"shirt-blue-m","units":-3}]`, "1 to 1000 units", http.StatusBadRequest},
		{"/orders/1002", `{`, "unexpected EOF", http.StatusBadRequest},
		// The outbox refuses a line of a witness, and with it the order.
		{"/orders/1002", `[{"sku":"shirt-blue-m","units":1},{"sku":"outbox-head","units":1}]`, "witness", http.StatusInternalServerError},
	} {
		code, text := ask("PUT", test.path, test.body)
		require.Equal(t, test.code, code)
		require.Contains(t, text, test.want)
	}
	code, _ := ask("GET", "/orders/1002", "")
	require.Equal(t, http.StatusNotFound, code)
	_, err := s.find(t.Context(), "1002")
	require.ErrorIs(t, err, sql.ErrNoRows)

	_, text := ask("GET", "/orders/1001", "")
	require.JSONEq(t, `[{"sku":"shirt-blue-m","units":2,"stock":"pending"},{"sku":"no-such-hat","units":1,"stock":"pending"}]`, text)
	require.NoError(t, s.outbox.Drain(t.Context()))
	_, text = ask("GET", "/orders/1001", "")
	require.Contains(t, text, `{"sku":"shirt-blue-m","units":2,"stock":"applied"}`)
	require.Contains(t, text, `{"sku":"no-such-hat","units":1,"stock":"parked","reason":"not known`)
	require.Equal(t, int64(9_998), server.Quantity(122))
	_, text = ask("GET", "/status", "")
	require.Contains(t, text, `"Parked":1`)
}

// The staff, and nobody else, decides on what is parked.
func TestStaffPages(t *testing.T) {
	server := oakratest.Start(t, opening()...)
	server.SetDialect(oakratest.Dialect{RejectNegative: true})
	s := openShop(t, filepath.Join(t.TempDir(), "shop.db"), server)
	require.NoError(t, s.place(t.Context(), "1001", slices.Repeat([]line{{"cap-navy", 1000}}, 11)))
	require.NoError(t, s.outbox.Drain(t.Context()))
	ask := func(method, path, password string, form url.Values) (int, string) {
		r := httptest.NewRequest(method, path, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth("Anna", password)
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	code, text := ask("GET", "/admin/outbox/", "wrong", nil)
	require.Equal(t, http.StatusUnauthorized, code)
	require.NotContains(t, text, "parked")
	code, text = ask("GET", "/admin/outbox/", s.password, nil)
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, text, "11 changes wait for a decision.")
	_, text = ask("GET", "/admin/outbox/change?id=1001/3", s.password, nil)
	require.Contains(t, text, `<a href="/orders/1001">Show the order</a>`)
	code, _ = ask("POST", "/admin/outbox/decide", s.password, url.Values{"id": {"1001/3"}, "action": {"drop"}, "confirmed": {"yes"}, "note": {"cancelled"}})
	require.Equal(t, http.StatusSeeOther, code)
	_, text = ask("GET", "/admin/outbox/change?id=1001/3", s.password, nil)
	require.Contains(t, text, "by <bdi>Anna</bdi>")

	s.password = ""
	code, _ = ask("GET", "/admin/outbox/", "", nil)
	require.Equal(t, http.StatusNotFound, code)
}
