package oakra

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBatches plays a run with a server that has a limit, items that it rejects
// without a name, and rejections for a passing cause, whose requests end in any order.
// Each item must pass once, or be isolated.
func TestBatches(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 9))
		size := 1 + random.IntN(60)
		q := newBatches(size, random.IntN(2000))
		limit, passing := 1+random.IntN(2*size), random.Float64()/10
		bad, n := random.Float64()/50, len(q.items)
		isBad := make([]bool, n)
		for i := range isBad {
			isBad[i] = random.Float64() < bad
		}
		passed, isolated := make([]int, n), make([]int, n)
		var flying []batch
		steps := 0
		for ; !q.empty() || len(flying) > 0; steps++ {
			require.Less(t, steps, 40*n+1000, "seed %d: it does not end", seed)
			if !q.empty() && len(flying) < 4 {
				b := q.take()
				require.NotEmpty(t, b.items, "seed %d", seed)
				require.LessOrEqual(t, len(b.items), size, "seed %d", seed)
				flying = append(flying, b)
				continue
			}
			at := random.IntN(len(flying))
			b := flying[at]
			flying = slices.Delete(flying, at, at+1)
			rejected := len(b.items) > limit || random.Float64() < passing ||
				slices.ContainsFunc(b.items, func(item int32) bool { return isBad[item] })
			switch {
			case random.IntN(20) == 0:
				q.failed(b)
				q.putBack(b)
			case !rejected:
				q.accepted(b)
				for _, item := range b.items {
					passed[item]++
				}
			case len(b.items) == 1:
				q.failed(b)
				isolated[b.items[0]]++
			default:
				q.failed(b)
				q.halve(b)
			}
			require.True(t, q.limit == 0 || q.limit > q.passed, "seed %d: limit %d, passed %d", seed, q.limit, q.passed)
		}
		for i := range n {
			require.Equal(t, 1, passed[i]+isolated[i], "seed %d: item %d", seed, i)
			if isBad[i] {
				require.Zero(t, passed[i], "seed %d: item %d", seed, i)
			}
		}
	}
}
