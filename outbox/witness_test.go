package outbox

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// theRules are the rules of the default options.
var theRules = func() rules {
	var o Options
	if err := o.complete(); err != nil {
		panic(err)
	}
	return o.rules(true)
}()

// attemptsOf returns an attempt for each code in the set. The bit of signs at the code
// gives the sign, and the ID is the code plus 1.
func attemptsOf(set, signs int) []attempt {
	var open []attempt
	for code := range theRules.codes {
		if set&(1<<code) == 0 {
			continue
		}
		sign := int64(1)
		if signs&(1<<code) != 0 {
			sign = -1
		}
		open = append(open, attempt{id: int64(code) + 1, code: code, sign: sign})
	}
	return open
}

func sums(open []attempt) (head, tail int64, ids []int64) {
	for _, a := range open {
		head += a.move()
		tail += theRules.moveTail(a)
		ids = append(ids, a.id)
	}
	return head, tail, ids
}

func TestReconcileFindsEverySetThatLanded(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for landed := range 1 << theRules.codes {
		signs, others := random.IntN(1<<16), random.IntN(1<<16)
		open := attemptsOf(landed|others, signs)
		random.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
		head, tail, want := sums(attemptsOf(landed, signs))
		got, ok := theRules.reconcile(open, head, tail)
		require.True(t, ok, "%b of %b", landed, others)
		require.Equal(t, want, got)
	}
}

// There are only four codes, so that every pair of differences can be compared with
// every subset.
func TestReconcileHasNoOtherSolutions(t *testing.T) {
	r := theRules
	r.codes = 4
	for set := range 1 << r.codes {
		for signs := range 1 << r.codes {
			if signs&^set != 0 {
				continue
			}
			open := attemptsOf(set, signs)
			solutions := make(map[[2]int64][]int64)
			for landed := range 1 << r.codes {
				if landed&^set == 0 {
					head, tail, ids := sums(attemptsOf(landed, signs))
					_, twice := solutions[[2]int64{head, tail}]
					require.False(t, twice, "two sets look the same")
					solutions[[2]int64{head, tail}] = ids
				}
			}
			for head := int64(-20); head <= 20; head++ {
				for tail := int64(-50); tail <= 90; tail++ {
					want, exists := solutions[[2]int64{head, tail}]
					got, ok := r.reconcile(open, head, tail)
					require.Equal(t, exists, ok, "%d %d of %v", head, tail, open)
					if ok {
						require.Equal(t, want, got)
					}
				}
			}
		}
	}
}

func TestReconcileRefusesParts(t *testing.T) {
	for code := range theRules.codes {
		for _, sign := range []int64{1, -1} {
			a := attempt{id: 1, code: code, sign: sign}
			open := []attempt{a, {id: 2, code: (code + 3) % 16, sign: -sign}}
			_, ok := theRules.reconcile(open, a.move(), 0)
			require.False(t, ok, "head alone looks like a landing: %+v", a)
			_, ok = theRules.reconcile(open, 0, theRules.moveTail(a))
			require.False(t, ok, "tail alone looks like a landing: %+v", a)
		}
	}
	all := attemptsOf(math.MaxUint16, 0b0110_1001_1001_0110)
	for edit := int64(-9); edit <= 9; edit++ {
		for landed := range 1 << 8 {
			head, tail, _ := sums(attemptsOf(landed, 0b0110_1001_1001_0110))
			if edit == 0 {
				continue
			}
			_, ok := theRules.reconcile(all, head+edit, tail)
			require.False(t, ok, "head %+d by hand", edit)
			_, ok = theRules.reconcile(all, head, tail+edit)
			require.False(t, ok, "tail %+d by hand", edit)
		}
	}
}

func TestReconcileOfExtremes(t *testing.T) {
	all := attemptsOf(math.MaxUint16, 0)
	for _, head := range []int64{math.MinInt64, math.MaxInt64, 1 << 62, -1 << 62, 1 << 16} {
		for _, tail := range []int64{math.MinInt64, math.MaxInt64, 2 * head, 0} {
			_, ok := theRules.reconcile(all, head, tail)
			require.False(t, ok, "%d %d", head, tail)
		}
	}
}

func TestCodesGoAroundInTurn(t *testing.T) {
	last := theRules.codes - 1
	for want := range 40 {
		code, ok := theRules.nextCode(nil, last)
		require.True(t, ok)
		require.Equal(t, want%16, code)
		last = code
	}
	code, ok := theRules.nextCode(attemptsOf(0b111, 0), 15)
	require.True(t, ok)
	require.Equal(t, 3, code, "open ones are passed over")
	_, ok = theRules.nextCode(attemptsOf(math.MaxUint16, 0), 3)
	require.False(t, ok)
}

// Whatever attempts land, in any order, head stays near its start, and tail grows by 11
// for each. Neither comes near zero, whatever quantities the shop gave them.
func TestWitnessesStayInTheirRange(t *testing.T) {
	for _, first := range [][2]int64{{start, start}, {1_000_000, 1_000_000}, {1_000_000, start}, {start, 1_000_000}, {1 << 40, start}, {70_000, 70_000}} {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			stayInRange(t, first[0], first[1])
		})
	}
}

func stayInRange(t *testing.T, firstHead, firstTail int64) {
	random := rand.New(rand.NewPCG(2, 2))
	head, tail, last := firstHead, firstTail, theRules.codes-1
	var open []attempt
	landed := int64(0)
	for range 20_000 {
		for len(open) > 0 && random.IntN(3) == 0 { // an attempt lands or is forgotten
			i := random.IntN(len(open))
			if random.IntN(4) > 0 {
				head, tail, landed = head+open[i].move(), tail+theRules.moveTail(open[i]), landed+1
			}
			open = slices.Delete(open, i, i+1)
		}
		code, ok := theRules.nextCode(open, last)
		if !ok {
			continue
		}
		last = code
		open = append(open, attempt{code: code, sign: nextSign(head, tail)})
		require.Equal(t, firstTail+2*(head-firstHead)+11*landed, tail)
		require.Greater(t, head, min(firstHead, 134_000)-1)
		require.Greater(t, tail, min(firstTail, 68_000)-1)
		if firstHead == start {
			require.Less(t, head, int64(266_000))
		}
	}
}

func TestLooksCapped(t *testing.T) {
	for _, quantity := range []int64{32_767, 65_535, 99_999, 999_999, math.MaxInt32, 9_999_999_999} {
		require.True(t, looksCapped(quantity), quantity)
	}
	for _, quantity := range []int64{0, start, 200_011, 1 << 31, 100_000} {
		require.False(t, looksCapped(quantity), quantity)
	}
}
