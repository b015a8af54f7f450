package storm_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/outbox"
)

// The parked changes are counted again when another process has parked or resolved one.
func TestParkedCountOfAnotherProcess(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s, w := newWrapped(t, d, 3, options())
		w.change = rejecting(w.Stock, firstItem, "sold out")
		other, err := outbox.New(t.Context(), d.open(t), nil, outbox.Options{})
		require.NoError(t, err)
		parked := func(box *outbox.Outbox) int64 {
			status, err := box.Status(t.Context())
			require.NoError(t, err)
			return status.Parked
		}
		for i := range 4 {
			require.NoError(t, s.Add(t.Context(), sell(fmt.Sprint(i), 0, 1)))
			s.drain(t)
			require.Equal(t, int64(i+1), parked(other))
		}
		by := outbox.Decision{Action: outbox.Drop, By: "ann", Note: "cancelled"}
		require.NoError(t, s.Resolve(t.Context(), by, "1", "2")) // neither the first nor the last
		require.Equal(t, int64(2), parked(other))
		by.Action = outbox.Resend
		require.NoError(t, other.Resolve(t.Context(), by, "0", "3"))
		require.Zero(t, parked(s.Outbox))
		s.drain(t)
		require.Equal(t, int64(2), parked(other))
	})
}
