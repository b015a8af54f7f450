package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/oakra/oakra-go/outbox"
)

// settled is how this outbox works beside many settled changes.
type settled struct {
	Changes int    `json:"changes"`
	Add     spread `json:"add"` // time, as ratio to that with none, in the same round
	Drain   spread `json:"drain"`
}

// fill makes settled changes, with IDs that grow, which cannot be made fast enough by
// sending them.
var fill = map[string]string{
	onSQLite: `WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < $1)
		INSERT INTO oakra_outbox_change (name, id, sku, location_id, quantity, request, state, added, settled)
		SELECT 'default', printf('order-%08d/1', n), 'shirt-' || n % 1000, 'warehouse-1', -1, n / 100000, 2, 1, 2 FROM g`,
	onPostgres: `INSERT INTO oakra_outbox_change (name, id, sku, location_id, quantity, request, state, added, settled)
		SELECT 'default', 'order-' || lpad(n::text, 8, '0') || '/1', 'shirt-' || n % 1000, 'warehouse-1', -1, n / 100000, 2, 1, 2 FROM generate_series(1, $1::bigint) n`,
}

// measureSettled adds and drains changes beside settled ones.
func (p plan) measureSettled(ctx context.Context, h *host, log func(string, ...any)) ([]settled, error) {
	boxes := make([]contender, len(p.settled))
	for i, n := range p.settled {
		d, err := h.fresh(ctx)
		if err != nil {
			return nil, err
		}
		defer d.close()
		w, err := newWarehouse(drainItems, "")
		if err != nil {
			return nil, err
		}
		defer w.Close()
		if boxes[i], err = newOutbox(ctx, d, w, outbox.Options{}); err != nil {
			return nil, err
		}
		if n > 0 {
			if _, err := d.ExecContext(ctx, fill[h.name], n); err != nil {
				return nil, err
			}
		}
		// As the database does it by itself after a while.
		for _, statement := range map[string][]string{onSQLite: {"PRAGMA wal_checkpoint(TRUNCATE)"}, onPostgres: {"VACUUM ANALYZE", "CHECKPOINT"}}[h.name] {
			if _, err := d.ExecContext(ctx, statement); err != nil {
				return nil, err
			}
		}
		log("%d settled changes are there", n)
	}
	adds, drains := make([]timing, len(boxes)), make([]timing, len(boxes))
	next := 0
	err := rounds(p.settledRounds, len(boxes), func(i int) (time.Duration, error) {
		next += p.settledAdd
		changes := sales(next, p.settledAdd, drainItems)
		began := time.Now()
		for from := 0; from < len(changes); from += manyCall * 10 {
			if err := boxes[i].add(ctx, changes[from:min(from+manyCall*10, len(changes))]...); err != nil {
				return 0, err
			}
		}
		added := time.Since(began)
		adds[i] = append(adds[i], added.Seconds())
		began = time.Now()
		err := boxes[i].drain(ctx)
		return time.Since(began), err
	}, drains)
	if err != nil {
		return nil, err
	}
	var all []settled
	for i, n := range p.settled {
		all = append(all, settled{n, spreadOf(adds[i][1:].over(adds[0][1:])), spreadOf(drains[i].over(drains[0]))})
	}
	return all, nil
}

// accounts is how several accounts in one database work at once.
type accounts struct {
	Accounts  int     `json:"accounts"`
	PerSecond float64 `json:"changes_per_second"` // recorded and drained, of all accounts, the median
	Idle      float64 `json:"idle_transactions"`  // a second, of each account, on PostgreSQL
}

const accountItems = 100

// measureAccounts adds and drains the changes of several accounts at once, and then
// lets them run with nothing to do.
func (p plan) measureAccounts(ctx context.Context, h *host) ([]accounts, error) {
	if h.name != onPostgres {
		return nil, nil // a SQLite file has one writer at a time
	}
	shops := make([]*manyAccounts, len(p.accounts))
	for i, n := range p.accounts {
		shop, err := newAccounts(ctx, h, n)
		if err != nil {
			return nil, fmt.Errorf("%d accounts: %w", n, err)
		}
		defer shop.close()
		shops[i] = shop
	}
	took := make([]timing, len(shops))
	next := 0
	err := rounds(p.accountRounds, len(shops), func(i int) (time.Duration, error) {
		began := time.Now()
		err := together(shops[i].boxes, func(box *outbox.Outbox) error {
			for from := 0; from < p.accountChanges; from += 100 {
				if err := box.Add(ctx, sales(next+from, min(100, p.accountChanges-from), accountItems)...); err != nil {
					return err
				}
			}
			return box.Drain(ctx)
		})
		next += p.accountChanges
		return time.Since(began), err
	}, took)
	if err != nil {
		return nil, err
	}
	var all []accounts
	for i, shop := range shops {
		idle, err := shop.idleTransactions(ctx, p.idle)
		if err != nil {
			return nil, err
		}
		n := len(shop.boxes)
		all = append(all, accounts{n, rounded(float64(n*p.accountChanges) / spreadOf(took[i]).P50), idle})
	}
	return all, nil
}

// manyAccounts is a database with several accounts.
type manyAccounts struct {
	*database
	*warehouse
	boxes []*outbox.Outbox
}

func newAccounts(ctx context.Context, h *host, n int) (*manyAccounts, error) {
	d, err := h.fresh(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, n)
	for i := range names {
		names[i] = "account-" + strconv.Itoa(i)
	}
	w, err := newWarehouse(accountItems, names...)
	if err != nil {
		d.close()
		return nil, err
	}
	w.SetLatency(drainLatency, 0)
	m := &manyAccounts{database: d, warehouse: w}
	for _, name := range names {
		box, err := outbox.New(ctx, d.DB, w.client.Stock, outbox.Options{Name: name, Witnesses: witnesses(name)})
		if err != nil {
			m.close()
			return nil, err
		}
		m.boxes = append(m.boxes, box)
	}
	return m, nil
}

func (m *manyAccounts) close() {
	m.warehouse.Close()
	m.database.close()
}

// together calls do for each outbox at once.
func together(boxes []*outbox.Outbox, do func(*outbox.Outbox) error) error {
	ended := make(chan error, len(boxes))
	for _, box := range boxes {
		go func() { ended <- do(box) }()
	}
	var first error
	for range boxes {
		if err := <-ended; first == nil {
			first = err
		}
	}
	return first
}

// idleTransactions counts the transactions of each account in a second without changes.
func (m *manyAccounts) idleTransactions(ctx context.Context, d time.Duration) (float64, error) {
	running, stop := context.WithCancel(ctx)
	var dispatching sync.WaitGroup
	for _, box := range m.boxes {
		dispatching.Go(func() { _ = box.Run(running) })
	}
	defer dispatching.Wait()
	defer stop()
	count := func() (n int64, err error) {
		err = m.QueryRowContext(ctx, "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()").Scan(&n)
		return n, err
	}
	time.Sleep(3 * time.Second) // the server counts with some delay
	before, err := count()
	if err != nil {
		return 0, err
	}
	time.Sleep(d)
	after, err := count()
	return rounded(float64(after-before) / float64(len(m.boxes)) / d.Seconds()), err
}
