package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func quick(c config) config {
	c.latency, c.settleAfter = 0, 50*time.Millisecond
	c.window, c.batch, c.concurrency = 200, 50, 8
	return c
}

func TestDayEndsRight(t *testing.T) {
	r, err := replay(t.Context(), quick(config{}), io.Discard)
	require.NoError(t, err)
	require.Equal(t, 3108, r.lines)
	require.Zero(t, r.wrong)
	require.Equal(t, r.records, r.right)
	require.Zero(t, r.unknown)
}

func TestDayEndsRightThroughFaults(t *testing.T) {
	for seed := range uint64(3) {
		r, err := replay(t.Context(), quick(config{faults: true, seed: seed}), io.Discard)
		require.NoError(t, err)
		require.Zero(t, r.wrong, "seed %d", seed)
		require.Positive(t, r.unknown, "seed %d: no fault struck", seed)
	}
}

func TestTradeIsCounted(t *testing.T) {
	trade, err := parseTrade(strings.NewReader("time,invoice,sku,country,quantity\n" +
		"t,1,a,Here,5\nt,1,BANK CHARGES,Here,1\nt,2,a,Here,-2\nt,3,a,There,1\n"))
	require.NoError(t, err)
	require.Len(t, trade.keys, 3)
	require.Equal(t, int64(15), trade.start(0)) // enough for a sale of five and then of ten
	require.Equal(t, int64(12), trade.closing(0))

	for _, bad := range []string{"", "sku,quantity\n", "time,invoice,sku,country,quantity\nt,1,a,Here,five\n"} {
		_, err := parseTrade(strings.NewReader(bad))
		require.Error(t, err, bad)
	}
}
