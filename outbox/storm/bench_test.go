package storm_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/outbox"
)

// BenchmarkDrain records 100,000 changes of 1,000 records in calls of 1,000, and
// drains them, on a fresh database.
func BenchmarkDrain(b *testing.B) {
	for _, d := range databases(b) {
		b.Run(d.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s := newShop(b, d, 1000, outbox.Options{Witnesses: options().Witnesses})
				b.StartTimer()
				began := time.Now()
				for i := range 100 {
					changes := make([]outbox.Change, 1000)
					for j := range changes {
						changes[j] = sell(fmt.Sprintf("%d/%d", i, j), (i*7+j)%1000, 1)
					}
					require.NoError(b, s.Add(b.Context(), changes...))
				}
				added := time.Since(began)
				s.drain(b)
				b.ReportMetric(added.Seconds(), "add-s")
				b.ReportMetric((time.Since(began) - added).Seconds(), "drain-s")
				b.ReportMetric(float64(s.writes()), "writes")
			}
		})
	}
}
