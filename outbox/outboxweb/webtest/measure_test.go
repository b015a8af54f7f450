package webtest

import (
	"database/sql"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/outbox"
	"github.com/oakra/oakra-go/outbox/outboxweb"
)

var (
	measure = flag.Bool("measure", false, "measure every page with a thousand changes and with five million")
	rounds  = flag.Int("rounds", 100, "requests of each page")
)

const slowest = 1.5 // times what a page may take with many changes

// TestMeasure prints how long each page takes, as medians of requests to a small and a
// large outbox in turn:
//
//	go test ./outbox/outboxweb/webtest -run TestMeasure -measure -v -timeout 1h
func TestMeasure(t *testing.T) {
	if !*measure {
		t.Skip("no -measure")
	}
	t.Run("sqlite", func(t *testing.T) {
		measurePages(t, func(statements func(db *sql.DB)) *sql.DB {
			file := "file:" + filepath.ToSlash(filepath.Join(t.TempDir(), "shop.db")) + "?_pragma=busy_timeout(20000)&_txlock=immediate"
			safe, err := sql.Open("sqlite", file+"&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
			require.NoError(t, err)
			t.Cleanup(func() { _ = safe.Close() })
			_, err = outbox.New(t.Context(), safe, nil, outbox.Options{})
			require.NoError(t, err)
			quick, err := sql.Open("sqlite", file+"&_pragma=synchronous(OFF)")
			require.NoError(t, err)
			defer quick.Close()
			statements(quick)
			return safe
		}, "(WITH RECURSIVE g(i) AS (SELECT %d UNION ALL SELECT i + 1 FROM g WHERE i < %d) SELECT i FROM g) AS g", "printf('%%0%dd', %s)", "ANALYZE")
	})
	t.Run("postgres", func(t *testing.T) {
		if why := postgresMissing(); why != "" {
			t.Skip("LEFT OUT: PostgreSQL, " + why)
		}
		measurePages(t, func(statements func(db *sql.DB)) *sql.DB {
			db := openPostgres(t)
			_, err := outbox.New(t.Context(), db, nil, outbox.Options{})
			require.NoError(t, err)
			statements(db)
			return db
		}, "generate_series(%d, %d) AS g(i)", "lpad(CAST(%[2]s AS text), %[1]d, '0')", "VACUUM ANALYZE")
	})
}

// measurePages opens a small and a large outbox and measures them. series and padded
// are SQL for numbers and for numbers with leading zeros.
func measurePages(t *testing.T, open func(statements func(db *sql.DB)) *sql.DB, series, padded, analyze string) {
	pad := func(digits int, expression string) string { return fmt.Sprintf(padded, digits, expression) }
	handler := func(settled, parked int) http.Handler {
		began := time.Now()
		total := settled + parked
		db := open(func(db *sql.DB) {
			// The first 60 changes are dropped, and the last of a request of ten are
			// spread evenly among the parked ones. The 60 oldest parked ones have a SKU
			// and a location of their own: the worst case for an index by number.
			every := total / parked
			rare := 60 * every
			isParked := fmt.Sprintf("i > 60 AND i %% %d = 0", every)
			run := func(statement string) {
				_, err := db.Exec(statement)
				require.NoError(t, err, statement)
			}
			run(fmt.Sprintf(`INSERT INTO oakra_outbox_change (name, id, sku, location_id, quantity, request, state, note, added, settled)
				SELECT 'default', 'order-' || %[1]s, CASE WHEN %[3]s AND i <= 60 + %[4]d THEN 'rare' ELSE 'sku-' || %[2]s END,
				CASE WHEN %[3]s AND i <= 60 + %[4]d THEN 'rare' ELSE 'warehouse-1' END, -1, 1 + i / 10,
				CASE WHEN i <= 60 THEN 4 WHEN %[3]s THEN 3 ELSE 2 END, CASE WHEN %[3]s THEN 'not known: Oakra has no stock record of this SKU and location' ELSE '' END,
				1700000000000 + i * 10, CASE WHEN %[3]s THEN NULL ELSE 1700000000000 + i * 10 END FROM %[5]s`,
				pad(8, "i"), pad(4, "i % 1000"), isParked, rare, fmt.Sprintf(series, 1, total)))
			requests := fmt.Sprintf(series, 1, 1+total/10)
			run("INSERT INTO oakra_outbox_request (name, id, state, added, settled) SELECT 'default', i, 2, 1700000000000 + i * 100, 1700000000000 + i * 100 FROM " + requests)
			run(`INSERT INTO oakra_outbox_attempt (name, id, request, code, sign, state, deadline, added, settled)
				SELECT 'default', i, i, i % 16, 1, 1, 1700000000000 + i * 100, 1700000000000 + i * 100, 1700000000000 + i * 100 FROM ` + requests)
			run(`INSERT INTO oakra_outbox_event (name, change, at, who, action, note)
				SELECT name, seq, added, 'host pid 1 ABCDEFGH', 'parked', note FROM oakra_outbox_change WHERE state = 3`)
			run(analyze)
		})
		box, err := outbox.New(t.Context(), db, nil, outbox.Options{})
		require.NoError(t, err)
		s, err := box.Status(t.Context())
		require.NoError(t, err)
		t.Logf("%d changes, %d of them parked, filled in %v", total, s.Parked, time.Since(began).Round(time.Second))
		return outboxweb.Handler(box, outboxweb.Options{AllowWrites: true, User: func(*http.Request) string { return "Anna" }})
	}
	boxes := []http.Handler{handler(900, 100), handler(5_000_000, 10_000)}

	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "%s\tthousand\tmillions\tratio\tKB\t\n", t.Name())
	for _, page := range []struct {
		name, path string
	}{
		{"overview", ""},
		{"parked", "changes"},
		{"parked, older", "changes?before=BEFORE"},
		{"parked, one SKU", "changes?state=parked&sku=rare"},
		{"parked, one location", "changes?state=parked&location=rare"},
		{"parked, SKU and location", "changes?state=parked&sku=rare&location=rare"},
		{"parked, no such SKU", "changes?state=parked&sku=none"},
		{"pending", "changes?state=pending"},
		{"being sent", "changes?state=sent"},
		{"applied", "changes?state=applied"},
		{"applied, older", "changes?state=applied&before=BEFORE"},
		{"dropped", "changes?state=dropped"},
		{"all", "changes?state=all"},
		{"one, applied", "change?id=order-00000077"},
		{"one, parked", "change?id=order-" + fmt.Sprintf("%08d", 501*10)},
		{"no such ID", "change?id=order-1"},
		{"decide on 50", "decide"},
		{"resume", "resume"},
	} {
		var times [2][]time.Duration
		size := 0
		for range *rounds {
			for i, box := range boxes {
				path, body := strings.ReplaceAll(page.path, "BEFORE", []string{"800", "4000000"}[i]), ""
				switch {
				case page.name == "one, parked" && i == 0:
					path = "change?id=order-00000500"
				case page.name == "decide on 50":
					body = url.Values{"action": {"resend"}, "id": parkedIDs([]int{10, 501}[i])}.Encode()
				}
				took, written := ask(t, box, path, body)
				times[i] = append(times[i], took)
				size = max(size, written)
			}
		}
		small, large := median(times[0]), median(times[1])
		ratio := float64(large) / float64(small)
		fmt.Fprintf(out, "%s\t%.2f ms\t%.2f ms\t%.2f\t%.1f\t\n", page.name, small.Seconds()*1000, large.Seconds()*1000, ratio, float64(size)/1000)
		if ratio > slowest {
			t.Errorf("%s takes %.2f times as long", page.name, ratio)
		}
	}
	require.NoError(t, out.Flush())
}

// parkedIDs are 50 IDs, of which each is parked.
func parkedIDs(every int) (ids []string) {
	for i := range 50 {
		ids = append(ids, fmt.Sprintf("order-%08d", (i+10)*every))
	}
	return ids
}

// ask makes a request, and returns how long it took and how large the page was.
func ask(t *testing.T, pages http.Handler, path, body string) (time.Duration, int) {
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	r := httptest.NewRequest(method, "/"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	began := time.Now()
	pages.ServeHTTP(w, r)
	took := time.Since(began)
	require.Contains(t, []int{http.StatusOK, http.StatusNotFound}, w.Code, path)
	return took, w.Body.Len()
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
