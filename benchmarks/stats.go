package main

import (
	"math"
	"slices"
)

// spread is the median of some values and their quartiles.
type spread struct {
	P25 float64 `json:"p25"`
	P50 float64 `json:"p50"`
	P75 float64 `json:"p75"`
}

func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	return spread{
		P25: rounded(quantile(sorted, 0.25)),
		P50: rounded(quantile(sorted, 0.50)),
		P75: rounded(quantile(sorted, 0.75)),
	}
}

// quantile returns the quantile q, from 0 to 1, of sorted values, with linear
// interpolation between two values.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low == len(sorted)-1 {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// rounded returns the number with four significant digits, more than the measurements
// are precise to.
func rounded(x float64) float64 {
	if x == 0 || math.IsNaN(x) {
		return x
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(x))))
	return math.Round(x*scale) / scale
}
