package main

import (
	"math"
	"slices"
	"time"
)

// timing is what something took in each round, in seconds.
type timing []float64

// over returns the ratios to what else took in the same rounds.
func (t timing) over(other timing) timing {
	ratios := make(timing, len(t))
	for i := range t {
		ratios[i] = t[i] / other[i]
	}
	return ratios
}

// rounds runs so many rounds, in each of which every kind is measured once. The next
// round begins with another kind. The first round is not counted: connections,
// statements and caches are new to it.
func rounds(n, kinds int, measure func(kind int) (time.Duration, error), took []timing) error {
	for round := range n + 1 {
		for j := range kinds {
			kind := (round + j) % kinds
			d, err := measure(kind)
			if err != nil {
				return err
			}
			if round > 0 {
				took[kind] = append(took[kind], d.Seconds())
			}
		}
	}
	return nil
}

// spread is the median of some values and their quartiles.
type spread struct {
	P25 float64 `json:"p25"`
	P50 float64 `json:"p50"`
	P75 float64 `json:"p75"`
}

func spreadOf(values timing) spread {
	sorted := slices.Sorted(slices.Values(values))
	at := func(q float64) float64 { // between two values by linear interpolation
		place := q * float64(len(sorted)-1)
		low := int(place)
		high := min(low+1, len(sorted)-1)
		return rounded(sorted[low] + (place-float64(low))*(sorted[high]-sorted[low]))
	}
	return spread{at(0.25), at(0.5), at(0.75)}
}

// rounded keeps four digits, which is more than these numbers mean.
func rounded(x float64) float64 {
	if x == 0 {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(x))))
	return math.Round(x*scale) / scale
}
