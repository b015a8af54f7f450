package oakratest_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/oakratest"
)

// An empty list asks whether a route is there. It changes nothing, and no fault of an
// operation strikes it.
func TestEmptyListHasNoOp(t *testing.T) {
	server := newServer(t, shirts...)
	server.Inject(oakratest.Fault{Op: "stock.update", Kind: oakratest.Respond, Status: 502})
	server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 502})
	tests := []struct {
		method, path, body string
		status             int
		op                 string
	}{
		{"POST", changePath, `{"stock_records":[]}`, 400, ""},
		{"POST", changePath, " {\n\"stock_records\" : [ ] }\t", 400, ""},
		{"POST", updatePath, `{"stock_records":[]}`, 400, ""},
		{"PATCH", "stock/stock-record/", `{"stock_records":[]}`, 404, ""},
		{"POST", changePath, `{"stock_records":[[]]}`, 502, "stock.change"},
		{"POST", changePath, `{"stock_records":[],"x":1}`, 502, "stock.change"},
		{"POST", changePath, `{}`, 502, "stock.change"},
		{"POST", changePath, `[]`, 502, "stock.change"},
	}
	for i, tt := range tests {
		got := call(t, server, tt.method, tt.path, tt.body)
		assert.Equal(t, tt.status, got.status, tt.body)
		assert.Equal(t, tt.op, server.Requests()[i].Op, tt.body)
		assert.Nil(t, server.Requests()[i].Applied)
		if tt.status == 400 {
			assert.JSONEq(t, `{"stock_records":{"non_field_errors":["This list may not be empty."]}}`, got.body)
		}
	}
	server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 503})
	assert.Equal(t, 503, call(t, server, "POST", changePath, `{"stock_records":[]}`).status, "a fault of all requests")
}

// The transport of Client distinguishes an empty list from the shortest write.
func TestEmptyListIsNotRefused(t *testing.T) {
	server := newServer(t, shirts...)
	server.Inject(oakratest.Fault{Op: "stock.update", Kind: oakratest.Refuse})
	transport := server.Transport()
	resp, err := transport.RoundTrip(newRequest(t, server, "POST", updatePath, `{"stock_records":[]}`))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, 400, resp.StatusCode)

	_, err = transport.RoundTrip(newRequest(t, server, "POST", updatePath, `{"stock_records":[{"id":1,"quantity":1}]}`))
	require.ErrorIs(t, err, oakratest.ErrRefused)
	assert.Equal(t, 1, server.Refused())
	assert.Len(t, server.Requests(), 1)
}
