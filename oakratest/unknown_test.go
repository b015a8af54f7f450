package oakratest_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/oakratest"
)

func TestUnknownPath(t *testing.T) {
	const (
		otherRoute = "stock/stock-record/change/" // in the reference, not in the dialect
		toLogin    = "/login/?next=%2Fapi%2Fv1%2Fstock%2Fstock-record%2Fchange%2F"
	)
	tests := []struct {
		name                string
		way                 oakratest.UnknownPath
		get, post           int
		getPlace, postPlace string // Location
		postText            string
	}{
		{"not found", oakratest.UnknownNotFound, 404, 404, "", "", "not found"},
		{"page", oakratest.UnknownPage, 200, 405, "", "", ""},
		{"page, CSRF", oakratest.UnknownPageCSRF, 200, 403, "", "", "CSRF"},
		{"not found, login", oakratest.UnknownNotFoundLogin, 302, 404, toLogin, "", "not found"},
		{"not found, page", oakratest.UnknownNotFoundPage, 200, 404, "", "", "not found"},
		{"login", oakratest.UnknownLogin, 302, 302, toLogin, toLogin, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := newServer(t, shirts...)
			server.SetDialect(oakratest.Dialect{UnknownPath: tt.way})
			get := call(t, server, "GET", otherRoute, "")
			post := call(t, server, "POST", otherRoute, addTwo)
			assert.Equal(t, tt.get, get.status)
			assert.Equal(t, tt.getPlace, get.header.Get("Location"))
			assert.Equal(t, tt.post, post.status)
			assert.Equal(t, tt.postPlace, post.header.Get("Location"))
			assert.Contains(t, post.body, tt.postText)
			for _, got := range []response{get, post} {
				assert.Equal(t, "text/html; charset=utf-8", got.header.Get("Content-Type"))
				assert.Contains(t, got.body, "<html")
			}
			assert.Equal(t, tt.get, call(t, server, "GET", "nowhere/", "").status)
			assert.Equal(t, tt.post, call(t, server, "POST", "nowhere/", `{"stock_records":[]}`).status)
			if tt.get == 302 {
				r := newRequest(t, server, "GET", "", "")
				r.URL.Path = "/login/"
				login, err := send(t, server, r)
				require.NoError(t, err)
				assert.Equal(t, 200, login.status)
			}

			assert.Equal(t, asItWas, quantities(server))
			assert.Equal(t, 405, call(t, server, "GET", changePath, "").status, "a known path")
			assert.Equal(t, 200, call(t, server, "POST", changePath, addTwo).status)
			server.SetDialect(oakratest.Dialect{UnknownPath: tt.way, WrongRouteNotAllowed: true})
			assert.Equal(t, "application/json", call(t, server, "POST", otherRoute, addTwo).header.Get("Content-Type"))
		})
	}
	server := newServer(t)
	assert.Panics(t, func() { server.SetDialect(oakratest.Dialect{UnknownPath: -1}) })
	assert.Panics(t, func() { server.SetDialect(oakratest.Dialect{UnknownPath: oakratest.UnknownLogin + 1}) })
}
