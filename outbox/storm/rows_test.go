package storm_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

// Row 1: a request sums only its own changes, even while another one with changes of the
// same record may still land.
func TestRequestSumsItsOwnChanges(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		o := options()
		o.Grace = time.Hour
		s, w := newWrapped(t, d, 1, o)
		w.change = func(context.Context, []oakra.StockChange) ([]oakra.StockRecord, error) {
			w.set(func() { w.change = nil })
			return nil, errLost
		}
		stop := s.run(t)
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		require.Eventually(t, func() bool { return s.status(t).Unknown == 1 }, time.Minute, 5*time.Millisecond)
		require.NoError(t, s.Add(t.Context(), sell("b", 0, 10)))
		require.Eventually(t, func() bool { return s.find(t, "b").State == outbox.StateApplied }, time.Minute, 5*time.Millisecond)
		stop()
		require.Equal(t, int64(990), s.quantity(0))
		require.Equal(t, outbox.StateSent, s.find(t, "a").State)
	})
}

// Row 4: a request that landed twice is taken back.
func TestDoubleIsTakenBack(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		o := options()
		o.RequestTimeout = time.Second
		s, w := newWrapped(t, d, 2, o)
		w.late(nil)
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 3), sell("b", 1, 4)))
		s.settle(t)
		require.Equal(t, int64(997), s.quantity(0))
		require.Equal(t, int64(996), s.quantity(1))
		status := s.status(t)
		require.Positive(t, status.Compensated)
		require.GreaterOrEqual(t, status.Requests, int64(3))
		require.Equal(t, outbox.StateApplied, s.find(t, "a").State)
	})
}

// Row 4: the undo is rejected. The change that counts twice is parked.
func TestUndoIsRejected(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		o := options()
		o.RequestTimeout = time.Second
		s, w := newWrapped(t, d, 2, o)
		w.late(func() { w.change = rejecting(w.Stock, firstItem, "no returns") })
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 3), sell("b", 1, 4)))
		s.settle(t)
		require.Equal(t, int64(994), s.quantity(0))
		require.Equal(t, int64(996), s.quantity(1))
		a := s.find(t, "a")
		require.Equal(t, outbox.StateParked, a.State)
		require.Contains(t, a.Reason, "counts once more")
		require.Contains(t, a.Reason, "no returns")
		require.Equal(t, outbox.StateApplied, s.find(t, "b").State)
	})
}

// Row 4: a rejected request lands late and cannot be taken back. Its changes are then
// recorded as applied.
func TestRejectedLandedLate(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		o := options()
		o.RequestTimeout = time.Second
		s, w := newWrapped(t, d, 1, o)
		var first []oakra.StockChange
		w.change = func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
			if first == nil {
				first = changes
				return nil, errLost
			}
			return rejecting(w.Stock, firstItem, "sold out")(ctx, changes)
		}
		parked := make(chan outbox.Entry, 10)
		o.OnParked = func(e outbox.Entry) { parked <- e }
		var err error
		s.Outbox, err = outbox.New(t.Context(), s.db, w, o)
		require.NoError(t, err)
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 3)))
		s.drain(t)
		require.Equal(t, outbox.StateParked, s.find(t, "a").State)
		require.Equal(t, "a", (<-parked).ID)
		require.Equal(t, int64(1), s.status(t).OpenAttempts)
		_, err = w.Stock.Change(t.Context(), first) // the request lands after all
		require.NoError(t, err)
		s.settle(t)
		a := s.find(t, "a")
		require.Equal(t, outbox.StateApplied, a.State)
		require.Equal(t, "landed late", a.Reason)
		require.Equal(t, int64(997), s.quantity(0))
		require.Empty(t, parked)
	})
}

// Row 7: the named items are parked with the server's message, and the others are
// applied.
func TestNamedItemsAreParked(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s, w := newWrapped(t, d, 5, options())
		w.change = rejecting(w.Stock, firstItem+2, "may not be negative")
		for i := range 5 {
			require.NoError(t, s.Add(t.Context(), sell(fmt.Sprint(i), i, 1)))
		}
		s.drain(t)
		for i := range 5 {
			e := s.find(t, fmt.Sprint(i))
			if i == 2 {
				require.Equal(t, outbox.StateParked, e.State)
				require.Equal(t, "quantity_change: may not be negative", e.Reason)
				require.Equal(t, int64(1000), s.quantity(i))
			} else {
				require.Equal(t, outbox.StateApplied, e.State)
				require.Equal(t, int64(999), s.quantity(i))
			}
		}
		require.Equal(t, int64(1), s.status(t).Rejected)
		require.Equal(t, 2, w.calls)

		w.set(func() { w.change = nil })
		by := outbox.Decision{Action: outbox.Resend, By: "ann", Note: "restocked"}
		require.ErrorIs(t, s.Resolve(t.Context(), by, "2", "nobody"), outbox.ErrUnknownID)
		require.ErrorIs(t, s.Resolve(t.Context(), by, "2", "3"), outbox.ErrNotParked)
		require.Error(t, s.Resolve(t.Context(), outbox.Decision{Action: outbox.Resend, By: "ann"}, "2"))
		require.Error(t, s.Resolve(t.Context(), outbox.Decision{By: "ann", Note: "x"}, "2"))
		require.Equal(t, outbox.StateParked, s.find(t, "2").State)
		require.NoError(t, s.Resolve(t.Context(), by, "2"))
		s.drain(t)
		require.Equal(t, int64(999), s.quantity(2))
		history, err := s.History(t.Context(), "2")
		require.NoError(t, err)
		var actions []string
		for _, e := range history {
			actions = append(actions, e.Action)
		}
		require.Subset(t, actions, []string{"added", "requested", "attempted", "parked", "resolved", "applied"})
	})
}

// Row 7: if no item is named, the halves are sent, and a size that is too large is
// remembered.
func TestHalves(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s, w := newWrapped(t, d, 40, options())
		w.change = func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
			if len(changes) > 12 {
				return nil, rejection("too many")
			}
			return w.Stock.Change(ctx, changes)
		}
		for i := range 40 {
			require.NoError(t, s.Add(t.Context(), sell(fmt.Sprint(i), i, 1)))
		}
		s.drain(t)
		for i := range 40 {
			require.Equal(t, int64(999), s.quantity(i))
		}
		require.Equal(t, 12, s.status(t).BatchSize, "4 requests of 10 items passed")
		require.Zero(t, s.status(t).Parked)
	})
}

// Row 7: a single item that is rejected without being named is parked only if another
// request has landed since, because a fault in the setup must not park anything.
func TestUnnamedSingleItem(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s, w := newWrapped(t, d, 2, options())
		w.change = func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
			if len(changes) == 3 && changes[1].ID == firstItem {
				return nil, rejection("Unsupported.")
			}
			return w.Stock.Change(ctx, changes)
		}
		stop := s.run(t)
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		require.Eventually(t, func() bool { return s.status(t).Rejected >= 2 }, time.Minute, 10*time.Millisecond)
		require.Equal(t, outbox.StateSent, s.find(t, "a").State)
		require.NoError(t, s.Add(t.Context(), sell("b", 1, 1)))
		require.Eventually(t, func() bool { return s.find(t, "a").State == outbox.StateParked }, time.Minute, 10*time.Millisecond)
		require.Equal(t, "Unsupported.", s.find(t, "a").Reason)
		require.Equal(t, outbox.StateApplied, s.find(t, "b").State)
		stop()
	})
}

// Changes of keys that Oakra does not have are parked, and released when the keys appear.
// A record with a new ID is found.
func TestUnknownAndMovedKeys(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s := newShop(t, d, 2, options())
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1), sell("x", 7, 1)))
		s.drainUnknown(t)
		require.Equal(t, outbox.StateApplied, s.find(t, "a").State)
		x := s.find(t, "x")
		require.Equal(t, outbox.StateParked, x.State)
		require.Contains(t, x.Reason, "not known")

		s.server.SetRecords(oakra.StockRecord{ID: 70, SKU: itemKey(7).SKU, LocationID: "warehouse-1", Quantity: 10})
		_, err := s.db.Exec("UPDATE oakra_outbox_record SET looked = looked - 7200000 WHERE id = 0")
		require.NoError(t, err)
		s.drain(t) // drains as if an hour later
		require.Equal(t, outbox.StateApplied, s.find(t, "x").State)

		// The record of item 0 is deleted and created again.
		s.server.SetRecords(
			oakra.StockRecord{ID: firstItem, SKU: "gone", LocationID: "warehouse-1", Quantity: 0},
			oakra.StockRecord{ID: 80, SKU: itemKey(0).SKU, LocationID: "warehouse-1", Quantity: 50})
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 400, Times: 1,
			Body: `{"stock_records":[{},{"id":["Invalid pk \"1000\" - object does not exist."]},{}]}`})
		require.NoError(t, s.Add(t.Context(), sell("b", 0, 1)))
		s.drain(t)
		require.Equal(t, outbox.StateApplied, s.find(t, "b").State)
		require.Equal(t, int64(49), s.server.Quantity(80))
	})
}

// If a list omits a record once, nothing is parked, and no other record is held up.
func TestKeyMissingOnce(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s, w := newWrapped(t, d, 2, options())
		omitted := false
		w.lookup = func(ctx context.Context, keys []oakra.StockKey) (map[oakra.StockKey]oakra.StockRecord, error) {
			found, err := w.Stock.Lookup(ctx, keys)
			w.set(func() {
				if _, ok := found[itemKey(0)]; ok && !omitted {
					omitted = true
					delete(found, itemKey(0))
				}
			})
			return found, err
		}
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Drain(ctx) }()
		require.Eventually(t, func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return omitted
		}, time.Minute, 5*time.Millisecond)
		require.NoError(t, s.Add(t.Context(), sell("b", 1, 1)))
		require.Eventually(t, func() bool { return s.find(t, "b").State == outbox.StateApplied }, time.Minute, 5*time.Millisecond)
		require.Equal(t, outbox.StatePending, s.find(t, "a").State)
		select {
		case err := <-ended:
			t.Fatalf("Drain ended although a change is pending: %v", err)
		default:
		}
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
		_, err := s.db.Exec("UPDATE oakra_outbox_record SET looked = looked - 10001 WHERE id = 0")
		require.NoError(t, err)
		s.drain(t)
		require.Equal(t, outbox.StateApplied, s.find(t, "a").State)
	})
}

// Row 9: an edit of a witness halts the outbox before it sends anything else.
func TestForeignHandHalts(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		halted := make(chan string, 10)
		o := options()
		o.OnHalt = func(reason string) { halted <- reason }
		s := newShop(t, d, 2, o)
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		s.drain(t)
		s.troubleWitness(1, func(r *oakra.StockRecord) { r.Quantity += 5 })
		require.NoError(t, s.Add(t.Context(), sell("b", 1, 1)))
		err := s.Drain(t.Context())
		require.ErrorIs(t, err, outbox.ErrHalted)
		require.ErrorContains(t, err, "which no request of this outbox explains")
		require.Equal(t, s.status(t).Halted, <-halted)
		require.Empty(t, halted)
		require.Equal(t, int64(1000), s.quantity(1))
		require.ErrorIs(t, s.Drain(t.Context()), outbox.ErrHalted)

		require.Error(t, s.Resume(t.Context(), outbox.ResumeOptions{By: "ann"}))
		require.NoError(t, s.Resume(t.Context(), outbox.ResumeOptions{By: "ann", Note: "I did it"}))
		s.drain(t)
		require.Equal(t, int64(999), s.quantity(1))
	})
}

// An account's first read halts if a witness is missing. So does the first read after a
// witness was replaced by a misspelled one.
func TestFirstReadHalts(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		o := options()
		first := newShop(t, d, 1, o)
		require.NoError(t, first.Add(t.Context(), sell("before", 0, 1)))
		first.drain(t)
		o.Witnesses[1].SKU = "nowhere"
		s := newShop(t, d, 1, o)
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		err := s.Drain(t.Context())
		require.ErrorIs(t, err, outbox.ErrHalted)
		require.ErrorContains(t, err, `"nowhere"`)
		require.ErrorContains(t, err, "200000")
		s.server.SetRecords(oakra.StockRecord{ID: 3, SKU: "nowhere", LocationID: "warehouse-1", Quantity: 200_000})
		require.NoError(t, s.Resume(t.Context(), outbox.ResumeOptions{By: "ann", Note: "created"}))
		s.drain(t)
		require.Equal(t, int64(999), s.quantity(0))
	})
}

// After the database was restored, the outbox halts before it sends anything.
func TestRestoredDatabase(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s := newShop(t, d, 1, options())
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		s.drain(t)
		require.NoError(t, s.Add(t.Context(), sell("b", 0, 10)))
		saved := saveTables(t, s)
		s.drain(t)
		require.Equal(t, int64(989), s.quantity(0))
		restoreTables(t, s, saved)
		require.NoError(t, s.Add(t.Context(), sell("c", 0, 100)))
		require.Equal(t, outbox.StatePending, s.find(t, "b").State)
		require.ErrorIs(t, s.Drain(t.Context()), outbox.ErrHalted)
		require.Equal(t, int64(989), s.quantity(0))
		require.NoError(t, s.Resume(t.Context(), outbox.ResumeOptions{By: "ann", Note: "restored", DatabaseRestored: true}))
		require.NoError(t, s.Add(t.Context(), sell("d", 0, 1000)))
		s.drain(t)
		require.Equal(t, int64(-11), s.quantity(0))
		require.Equal(t, outbox.StateParked, s.find(t, "b").State)
		require.Equal(t, outbox.StateParked, s.find(t, "c").State)
	})
}

// A halt that a backup has kept says nothing about what was sent after it, and neither
// does one that was resumed: everything that is not settled is parked.
func TestRestoredDatabaseOfAHalt(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s := newShop(t, d, 1, options())
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		s.drain(t)
		s.troubleWitness(1, func(r *oakra.StockRecord) { r.Quantity += 5 })
		require.NoError(t, s.Add(t.Context(), sell("b", 0, 10)))
		require.ErrorIs(t, s.Drain(t.Context()), outbox.ErrHalted)
		require.WithinDuration(t, time.Now(), s.status(t).HaltedAt, time.Minute)
		require.NoError(t, s.Add(t.Context(), sell("c", 0, 100)))
		saved := saveTables(t, s)
		require.NoError(t, s.Resume(t.Context(), outbox.ResumeOptions{By: "ann", Note: "I did it"}))
		s.drain(t)
		require.Equal(t, int64(889), s.quantity(0))
		require.Zero(t, s.status(t).HaltedAt)

		restoreTables(t, s, saved)
		restored := outbox.ResumeOptions{By: "ann", Note: "restored", DatabaseRestored: true}
		require.NoError(t, s.Resume(t.Context(), restored))
		require.NoError(t, s.Add(t.Context(), sell("d", 0, 1000)))
		require.NoError(t, s.Resume(t.Context(), restored))
		s.drain(t)
		require.Equal(t, int64(889), s.quantity(0))
		for _, id := range []string{"b", "c", "d"} {
			require.Equal(t, outbox.StateParked, s.find(t, id).State)
		}
	})
}

// tables lists the tables that a restored backup sets back.
var tables = []string{"account", "change", "request", "item", "attempt"}

func saveTables(t testing.TB, s *shop) map[string]string {
	saved := make(map[string]string)
	for _, table := range tables {
		saved[table] = "saved_" + table
		_, err := s.db.Exec(fmt.Sprintf("CREATE TABLE saved_%s AS SELECT * FROM oakra_outbox_%s", table, table))
		require.NoError(t, err)
	}
	return saved
}

func restoreTables(t testing.TB, s *shop, saved map[string]string) {
	for _, table := range tables {
		_, err := s.db.Exec("DELETE FROM oakra_outbox_" + table)
		require.NoError(t, err)
		insert := "INSERT INTO oakra_outbox_" + table + " %s SELECT * FROM " + saved[table]
		if _, err = s.db.Exec(fmt.Sprintf(insert, "")); err != nil { // PostgreSQL numbers changes itself
			_, err = s.db.Exec(fmt.Sprintf(insert, "OVERRIDING SYSTEM VALUE"))
		}
		require.NoError(t, err)
	}
}

// Row 10: another process takes over from one that went silent, reads first, and
// finds what landed.
func TestTakeover(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s, w := newWrapped(t, d, 1, options())
		sent := make(chan struct{})
		var once sync.Once
		w.change = func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
			records, err := w.Stock.Change(ctx, changes)
			once.Do(func() { close(sent) })
			_ = s.db.Close() // the process dies, and can record nothing more
			return records, err
		}
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		died := make(chan error, 1)
		go func() { died <- s.Drain(context.WithoutCancel(t.Context())) }()
		<-sent
		require.Error(t, <-died)

		second := openShop(t, d.open(t), s.server, options())
		require.Equal(t, outbox.StateSent, second.find(t, "a").State)
		second.drain(t)
		require.Equal(t, outbox.StateApplied, second.find(t, "a").State)
		require.Equal(t, int64(999), second.quantity(0))
		require.Equal(t, int64(1), second.status(t).Requests)
	})
}

// Rows 6 and 8 use the longer Grace if the process that takes over has a shorter one.
func TestShorterGraceTakesOver(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		o := options()
		o.Grace = time.Hour
		s, w := newWrapped(t, d, 1, o)
		var sent []oakra.StockChange
		w.change = func(_ context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
			sent = changes
			return nil, errLost
		}
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		stop := s.run(t)
		require.Eventually(t, func() bool { return s.status(t).Unknown == 1 }, time.Minute, 5*time.Millisecond)
		stop()
		_, err := s.db.Exec("UPDATE oakra_outbox_attempt SET deadline = deadline - 1800000")
		require.NoError(t, err)

		second := openShop(t, s.db, s.server, options())
		before := len(s.server.Requests())
		stop = second.run(t)
		require.Eventually(t, func() bool { return len(s.server.Requests()) > before+3 }, time.Minute, 5*time.Millisecond)
		status := s.status(t)
		require.Equal(t, int64(1), status.Requests, "half an hour later it may still land")
		require.Equal(t, int64(1), status.OpenAttempts)
		_, err = w.Stock.Change(t.Context(), sent)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return s.find(t, "a").State == outbox.StateApplied }, time.Minute, 5*time.Millisecond)
		stop()
		require.Equal(t, int64(999), s.quantity(0))
	})
}

// Row 10: a process is not replaced during its lease, which it renews during a request.
func TestLeaseIsKept(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		for _, lease := range []time.Duration{time.Minute, 300 * time.Millisecond} {
			t.Run(lease.String(), func(t *testing.T) {
				o := options()
				o.Lease = lease
				s, w := newWrapped(t, d, 1, o)
				sent, goOn := make(chan struct{}), make(chan struct{})
				w.change = func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
					close(sent)
					<-goOn
					return w.Stock.Change(ctx, changes)
				}
				until := func() (ms int64) {
					require.NoError(t, s.db.QueryRow("SELECT until FROM oakra_outbox_account").Scan(&ms))
					return ms
				}
				stop := s.run(t)
				require.NoError(t, s.Add(t.Context(), sell(lease.String(), 0, 1)))
				<-sent
				leader, first := s.status(t).Leader, until()
				if lease == time.Minute {
					stopSecond := openShop(t, s.db, s.server, o).run(t)
					require.Never(t, func() bool { return s.status(t).Leader != leader }, 200*time.Millisecond, 10*time.Millisecond)
					stopSecond()
				} else {
					require.Eventually(t, func() bool { return until() > first }, time.Minute, 10*time.Millisecond)
				}
				close(goOn)
				stop()
			})
		}
	})
}

// Row 10: a process that was replaced while its request was in flight records nothing
// more.
func TestFence(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s, w := newWrapped(t, d, 3, options())
		sent, goOn := make(chan struct{}), make(chan struct{})
		w.change = func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
			w.set(func() { w.change = nil })
			records, err := w.Stock.Change(ctx, changes)
			close(sent)
			<-goOn
			return records, err
		}
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() { ended <- s.Run(ctx) }()
		<-sent
		first := s.status(t).Leader
		require.NotEmpty(t, first)

		second := openShop(t, d.open(t), s.server, options())
		go func() { ended <- second.Run(ctx) }()
		require.Eventually(t, func() bool { // the lease ends
			if leader := s.status(t).Leader; leader != first && leader != "" {
				return true
			}
			_, err := second.db.Exec("UPDATE oakra_outbox_account SET until = 0 WHERE epoch = 2") // New and the first process made it 2
			require.NoError(t, err)
			return false
		}, time.Minute, 5*time.Millisecond)
		require.NoError(t, second.Add(t.Context(), sell("b", 1, 1)))
		require.NoError(t, second.Add(t.Context(), sell("c", 2, 1)))
		require.Eventually(t, func() bool { return second.status(t).Pending == 0 }, time.Minute, 5*time.Millisecond)
		before := accountRow(t, s)
		close(goOn)
		require.Never(t, func() bool { return accountRow(t, s) != before }, 100*time.Millisecond, 5*time.Millisecond)
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, <-ended)
		second.settle(t)
		for i := range 3 {
			require.Equal(t, int64(999), second.quantity(i))
		}
		require.Equal(t, outbox.StateApplied, second.find(t, "a").State)
	})
}

// accountRow returns what a dispatcher saves of the account.
func accountRow(t testing.TB, s *shop) string {
	var head, tail, code, id int64
	require.NoError(t, s.db.QueryRow("SELECT head, tail, last_code, last_id FROM oakra_outbox_account").Scan(&head, &tail, &code, &id))
	return fmt.Sprint(head, tail, code, id)
}

// Resume parks the changes of requests that were open at the halt, and forgets their
// attempts.
func TestResumeParksWhatIsOpen(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s, w := newWrapped(t, d, 2, options())
		w.change = func(context.Context, []oakra.StockChange) ([]oakra.StockRecord, error) {
			s.troubleWitness(1, func(r *oakra.StockRecord) { r.Quantity -= 3 }) // somebody edits a witness
			return nil, errLost
		}
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		require.ErrorIs(t, s.Drain(t.Context()), outbox.ErrHalted)
		require.Equal(t, int64(1), s.status(t).OpenAttempts)
		w.set(func() { w.change = nil })
		require.NoError(t, s.Add(t.Context(), sell("b", 1, 1)))
		require.NoError(t, s.Resume(t.Context(), outbox.ResumeOptions{By: "ann", Note: "looked"}))
		status := s.status(t)
		require.Zero(t, status.OpenAttempts)
		require.Empty(t, status.Halted)
		a := s.find(t, "a")
		require.Equal(t, outbox.StateParked, a.State)
		require.Contains(t, a.Reason, "open at the halt")
		s.drain(t)
		require.Equal(t, int64(999), s.quantity(1))
		require.Equal(t, int64(1000), s.quantity(0))
	})
}

// Without witnesses, a change with an unknown outcome is parked, but one that a response
// shows as applied is not.
func TestWithoutWitnesses(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		o := options()
		o.Witnesses = [2]oakra.StockKey{}
		s := newShop(t, d, 3, o)
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Times: 1})
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		s.drain(t)
		require.Equal(t, outbox.StateParked, s.find(t, "a").State)
		require.Contains(t, s.find(t, "a").Reason, "unknown")

		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.CutBody, Times: 1})
		require.NoError(t, s.Add(t.Context(), sell("b", 1, 1)))
		s.drain(t)
		require.NotEqual(t, outbox.StateSent, s.find(t, "b").State)

		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.OmitRecord, Times: 1})
		require.NoError(t, s.Add(t.Context(), sell("c", 0, 1), sell("d", 2, 1)))
		s.drain(t)
		require.Equal(t, outbox.StateApplied, s.find(t, "c").State, "its record is in the response")
		require.Equal(t, outbox.StateParked, s.find(t, "d").State)

		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 429, Times: 1})
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Refuse, Times: 1})
		require.NoError(t, s.Add(t.Context(), sell("e", 0, 1)))
		s.drain(t)
		require.Equal(t, outbox.StateApplied, s.find(t, "e").State)
		require.Equal(t, int64(997), s.quantity(0))
		require.Error(t, s.Resume(t.Context(), outbox.ResumeOptions{By: "ann", Note: "x"}))
	})
}

func TestIDs(t *testing.T) {
	eachDriver(t, func(t *testing.T, d database) {
		s := newShop(t, d, 2, options())
		ctx := t.Context()
		require.NoError(t, s.Add(ctx, sell("a", 0, 1)))
		require.NoError(t, s.Add(ctx, sell("a", 0, 1), sell("a", 0, 1)), "the same again is no error")
		require.ErrorIs(t, s.Add(ctx, sell("a", 0, 2)), outbox.ErrIDReused)
		require.ErrorIs(t, s.Add(ctx, sell("b", 0, 1), sell("b", 1, 1)), outbox.ErrIDReused)
		tx, err := s.db.Begin()
		require.NoError(t, err)
		require.ErrorIs(t, s.AddTx(ctx, tx, sell("c", 0, 1), sell("a", 1, 1)), outbox.ErrIDReused)
		require.NoError(t, tx.Rollback())
		found, err := s.Find(ctx, "a", "b", "c")
		require.NoError(t, err)
		require.Len(t, found, 1)
		s.drain(t)
		require.NoError(t, s.Add(ctx, sell("a", 0, 1)))
		s.drain(t)
		require.Equal(t, int64(999), s.quantity(0))

		// Concurrent calls share commits. A call with a reused ID does not affect others.
		var calls sync.WaitGroup
		errs := make([]error, 100)
		for i := range errs {
			calls.Go(func() {
				id := fmt.Sprintf("g%d", i)
				if i == 50 {
					id = "a"
				}
				errs[i] = s.Add(ctx, sell(id, 1, 1+int64(i)/50))
			})
		}
		calls.Wait()
		for i, err := range errs {
			if i == 50 {
				require.ErrorIs(t, err, outbox.ErrIDReused)
			} else {
				require.NoError(t, err)
			}
		}
		s.drain(t)
		require.Equal(t, int64(1000-50-49*2), s.quantity(1))
		all, err := s.List(ctx, outbox.Filter{Limit: 60})
		require.NoError(t, err)
		require.Len(t, all, 60)
		rest, err := s.List(ctx, outbox.Filter{Before: all[59].Seq})
		require.NoError(t, err)
		require.Len(t, rest, 40)
	})
}

func TestBadInput(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s := newShop(t, d, 1, options())
		for name, change := range map[string]outbox.Change{
			"ID is blank":             {ID: " ", SKU: "s", LocationID: "l", QuantityChange: 1},
			"SKU is blank":            {ID: "i", LocationID: "l", QuantityChange: 1},
			"LocationID is blank":     {ID: "i", SKU: "s", QuantityChange: 1},
			"not valid UTF-8":         {ID: "i", SKU: "s\xff", LocationID: "l", QuantityChange: 1},
			"NUL":                     {ID: "i\x00", SKU: "s", LocationID: "l", QuantityChange: 1},
			"quantity change is 0":    {ID: "i", SKU: "s", LocationID: "l"},
			"it may be 2^40":          {ID: "i", SKU: "s", LocationID: "l", QuantityChange: 1<<40 + 1},
			"it may be 2^40 either":   {ID: "i", SKU: "s", LocationID: "l", QuantityChange: -1<<40 - 1},
			"500":                     {ID: "i", SKU: strings.Repeat("x", 501), LocationID: "l", QuantityChange: 1},
			"ID is not valid UTF-8":   {ID: "\xff", SKU: "s", LocationID: "l", QuantityChange: 1},
			"LocationID is not valid": {ID: "i", SKU: "s", LocationID: "\xc0\x80", QuantityChange: 1},
			"LocationID contains":     {ID: "i", SKU: "s", LocationID: "\x00", QuantityChange: 1},
			"it may have 200":         {ID: strings.Repeat("x", 201), SKU: "s", LocationID: "l", QuantityChange: 1},
			"is a witness":            {ID: "i", SKU: head.SKU, LocationID: head.LocationID, QuantityChange: 1},
		} {
			err := s.Add(t.Context(), sell("good", 0, 1), change)
			require.ErrorContains(t, err, name)
			require.ErrorContains(t, err, "change 1")
		}
		require.NoError(t, s.Add(t.Context(), outbox.Change{ID: "big", SKU: "größe \"38\" \\ \u2028", LocationID: "l", QuantityChange: -1 << 40}))
		require.Equal(t, "größe \"38\" \\ \u2028", s.find(t, "big").SKU)
		status := s.status(t)
		require.Equal(t, int64(1), status.Pending)
		for _, o := range []outbox.Options{
			{Witnesses: [2]oakra.StockKey{head, {}}},
			{Witnesses: [2]oakra.StockKey{{}, tail}},
			{Witnesses: [2]oakra.StockKey{head, {SKU: tail.SKU}}},
			{Witnesses: [2]oakra.StockKey{head, head}},
			{Retention: -time.Hour}, {Poll: time.Microsecond},
			{BatchSize: -1}, {BatchSize: 2, Witnesses: [2]oakra.StockKey{head, tail}}, {Grace: -1}, {Name: "\xff"},
		} {
			_, err := outbox.New(t.Context(), s.db, nil, o)
			require.Error(t, err, "%+v", o)
		}
		_, err := outbox.New(t.Context(), d.open(t), (*oakra.StockService)(nil), options())
		require.ErrorContains(t, err, "nil *oakra.StockService")
		_, err = outbox.New(t.Context(), nil, nil, options())
		require.Error(t, err)
		adder, err := outbox.New(t.Context(), s.db, nil, outbox.Options{})
		require.NoError(t, err)
		require.ErrorContains(t, adder.Run(t.Context()), "only adds")
		require.ErrorContains(t, adder.Add(t.Context(), outbox.Change{ID: "i", SKU: tail.SKU, LocationID: tail.LocationID, QuantityChange: 1}), "witness")
		blind, err := outbox.New(t.Context(), s.db, quickClient(s.server).Stock, outbox.Options{})
		require.NoError(t, err)
		require.ErrorContains(t, blind.Drain(t.Context()), "Options.Witnesses")
		_, err = s.List(t.Context(), outbox.Filter{SKU: "s"})
		require.Error(t, err)
		_, err = s.List(t.Context(), outbox.Filter{SKU: "s", State: outbox.StateApplied})
		require.Error(t, err)
	})
}

// Changes that add up to 0 need no request.
func TestZeroSum(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s := newShop(t, d, 2, options())
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 5), sell("b", 0, -5)))
		s.drain(t)
		require.Equal(t, 0, s.writes())
		require.Equal(t, outbox.StateApplied, s.find(t, "a").State)
		require.NotEmpty(t, s.find(t, "b").Reason)
		require.NoError(t, s.Add(t.Context(), sell("c", 0, 5), sell("d", 0, -5), sell("e", 1, 1)))
		s.drain(t)
		require.Equal(t, 1, s.writes())
		require.Equal(t, int64(999), s.quantity(1))
	})
}

// Retention deletes settled changes, and their IDs are forgotten.
func TestRetention(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		o := options()
		o.Retention = time.Hour
		s := newShop(t, d, 1, o)
		var changes []outbox.Change
		for i := range 1200 {
			changes = append(changes, sell(fmt.Sprint(i), 0, 1))
		}
		require.NoError(t, s.Add(t.Context(), changes...))
		s.drain(t)
		require.NoError(t, s.Add(t.Context(), sell("young", 0, 1)))
		s.drain(t)
		for _, statement := range []string{
			"UPDATE oakra_outbox_change SET added = added - 3700000, settled = settled - 3700000 WHERE id <> 'young'",
			"UPDATE oakra_outbox_request SET settled = settled - 4000000 WHERE id = 1",
		} {
			_, err := s.db.Exec(statement)
			require.NoError(t, err)
		}
		s.settle(t)
		require.Eventually(t, func() bool {
			s.settle(t)
			all, err := s.List(t.Context(), outbox.Filter{Limit: 10_000})
			require.NoError(t, err)
			return len(all) == 1
		}, time.Minute, time.Millisecond)
		require.Equal(t, outbox.StateApplied, s.find(t, "young").State)
		var requests int
		require.NoError(t, s.db.QueryRow("SELECT count(*) FROM oakra_outbox_request").Scan(&requests))
		require.Equal(t, 1, requests)
	})
}

// A context that has ended affects the caller's transaction as in database/sql: the
// transaction can continue, unless the context is its own.
func TestAddTxWithACanceledContext(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s := newShop(t, d, 1, options())
		_, err := s.db.Exec("CREATE TABLE orders (id text)")
		require.NoError(t, err)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		tx, err := s.db.Begin()
		require.NoError(t, err)
		_, err = tx.Exec("INSERT INTO orders VALUES ('order-1')")
		require.NoError(t, err)
		require.ErrorIs(t, s.AddTx(ended, tx, sell("a", 0, 1)), context.Canceled)
		require.NoError(t, s.AddTx(t.Context(), tx, sell("b", 0, 1)))
		require.NoError(t, tx.Commit())

		ctx, cancel := context.WithCancel(t.Context())
		tx, err = s.db.BeginTx(ctx, nil)
		require.NoError(t, err)
		_, err = tx.Exec("INSERT INTO orders VALUES ('order-2')")
		require.NoError(t, err)
		cancel()
		require.Error(t, s.AddTx(ctx, tx, sell("c", 0, 1)))
		require.Error(t, tx.Commit())

		require.ErrorIs(t, s.Add(ended, sell("d", 0, 1)), context.Canceled)
		all, err := s.List(t.Context(), outbox.Filter{})
		require.NoError(t, err)
		require.Len(t, all, 1)
		require.Equal(t, "b", all[0].ID)
		var orders int
		require.NoError(t, s.db.QueryRow("SELECT count(*) FROM orders").Scan(&orders))
		require.Equal(t, 1, orders)
	})
}

func TestStatusWarnings(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s := newShop(t, d, 1, options())
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		s.drain(t)
		require.Empty(t, s.status(t).Warnings)
		for _, test := range []struct {
			head, tail int64
			want       []string
		}{
			{200_000, 1 << 30, nil},
			{200_000, 1<<30 + 1, []string{"a server of 32 bits overflows"}},
			{200_000, 999_999, []string{"\"outbox-tail\" at \"warehouse-1\" has 999999 units, which looks like a limit"}},
			{1<<31 - 1, 1<<31 - 1, []string{"overflows", "\"outbox-head\"", "\"outbox-tail\""}},
		} {
			_, err := s.db.Exec(fmt.Sprintf("UPDATE oakra_outbox_account SET head = %d, tail = %d", test.head, test.tail))
			require.NoError(t, err)
			warnings := s.status(t).Warnings
			require.Len(t, warnings, len(test.want), "%v", warnings)
			for i := range warnings {
				require.Contains(t, warnings[i], test.want[i])
			}
		}
	})
}

// Other witnesses are accepted only while no attempt is open. A process that knows the
// old ones no longer dispatches.
func TestChangingWitnesses(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s, w := newWrapped(t, d, 2, options())
		s.server.SetRecords(
			oakra.StockRecord{ID: 3, SKU: "head-2", LocationID: "warehouse-1", Quantity: 300_000},
			oakra.StockRecord{ID: 4, SKU: "tail-2", LocationID: "warehouse-1", Quantity: 200_000})
		o := options()
		o.Witnesses[0].SKU, o.Witnesses[1].SKU = "head-2", "tail-2"
		sent, goOn := make(chan struct{}), make(chan struct{})
		w.change = func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
			close(sent)
			<-goOn
			w.set(func() { w.change = nil })
			return w.Stock.Change(ctx, changes)
		}
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		stop := s.run(t)
		<-sent
		_, err := outbox.New(t.Context(), s.db, w, o)
		require.ErrorContains(t, err, "1 open attempts")
		require.ErrorContains(t, err, "outbox-head")
		close(goOn)
		require.Eventually(t, func() bool { return s.find(t, "a").State == outbox.StateApplied }, time.Minute, 5*time.Millisecond)
		stop()

		require.Empty(t, s.status(t).Warnings)
		var logged strings.Builder
		o.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelWarn}))
		second := &shop{db: s.db, server: s.server}
		second.Outbox, err = outbox.New(t.Context(), s.db, w, o)
		require.NoError(t, err)
		require.Contains(t, logged.String(), "replaced the witnesses")
		require.Contains(t, logged.String(), "head-2")
		logged.Reset()
		_, err = outbox.New(t.Context(), s.db, w, o)
		require.NoError(t, err)
		require.Empty(t, logged.String(), "the same ones again")
		warnings := second.status(t).Warnings
		require.Len(t, warnings, 1)
		require.Contains(t, warnings[0], "replaced on 20")
		require.Contains(t, warnings[0], `"outbox-head" at "warehouse-1" and "outbox-tail"`)
		_, err = s.db.Exec("UPDATE oakra_outbox_account SET replaced = replaced - 604800001")
		require.NoError(t, err)
		require.Empty(t, second.status(t).Warnings, "a week later")
		require.NoError(t, s.Add(t.Context(), sell("b", 1, 1)), "the old process may add")
		require.ErrorContains(t, s.Drain(t.Context()), "other witnesses")
		require.ErrorContains(t, s.Run(t.Context()), "other witnesses")
		require.Equal(t, int64(1000), s.quantity(1))
		second.drain(t)
		require.Equal(t, int64(999), s.quantity(1))
		require.Equal(t, []int64{300_000 - 1<<1, 200_000 - 2<<1 + 11}, []int64{s.server.Quantity(3), s.server.Quantity(4)})
		require.Equal(t, int64(199_999), s.server.Quantity(1))
		require.ErrorContains(t, second.Add(t.Context(), outbox.Change{ID: "w", SKU: "head-2", LocationID: "warehouse-1", QuantityChange: 1}), "witness")
	})
}
