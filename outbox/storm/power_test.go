package storm_test

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

// sector is the unit in which the disk writes.
const sector = 512

// disk is a disk in memory that loses its power after some number of writes. Each sector
// that was not synced by then is kept, dropped or torn.
type disk struct {
	mu     sync.Mutex
	files  map[string]*diskFile
	left   int           // number of writes and syncs until the power goes off
	off    chan struct{} // closed when the power is off
	random *rand.Rand
}

// diskFile is a file on a disk.
type diskFile struct {
	disk  *disk
	data  []byte       // content as programs read it
	safe  []byte       // content at the last sync
	dirty map[int]bool // sectors written since the last sync
}

func newDisk(random *rand.Rand, files map[string][]byte) *disk {
	d := &disk{files: make(map[string]*diskFile), left: 1 << 40, off: make(chan struct{}), random: random}
	for name, data := range files {
		d.files[name] = &diskFile{disk: d, data: data, safe: slices.Clone(data), dirty: make(map[int]bool)}
	}
	return d
}

// cutAfter lets the power go off after some writes.
func (d *disk) cutAfter(writes int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = writes
}

// on reports whether there is power, and counts a write if write is true. The caller must
// hold d.mu.
func (d *disk) on(write bool) bool {
	select {
	case <-d.off:
		return false
	default:
	}
	if write {
		if d.left--; d.left < 0 {
			close(d.off)
			return false
		}
	}
	return true
}

// survivors returns what is on the disk after the power went off.
func (d *disk) survivors() map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	files := make(map[string][]byte)
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		f := d.files[name]
		kept := slices.Clone(f.safe)
		if len(f.data) < len(kept) && d.random.IntN(2) == 0 {
			kept = kept[:len(f.data)]
		}
		for _, n := range slices.Sorted(maps.Keys(f.dirty)) {
			from, to := n*sector, min((n+1)*sector, len(f.data))
			switch d.random.IntN(4) {
			case 0: // dropped
				continue
			case 1: // torn
				to = from + d.random.IntN(sector)
			}
			if to = min(to, len(f.data)); to > from {
				kept = append(kept, make([]byte, max(0, to-len(kept)))...)
				copy(kept[from:to], f.data[from:to])
			}
		}
		files[name] = kept
	}
	return files
}

func (d *disk) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.on(false) {
		return nil, flags, sqlite3.CANTOPEN
	}
	f := d.files[name]
	if f == nil {
		if flags&vfs.OPEN_CREATE == 0 {
			return nil, flags, sqlite3.CANTOPEN
		}
		f = &diskFile{disk: d, dirty: make(map[int]bool)}
		d.files[name] = f
	}
	return f, flags, nil
}

func (d *disk) Delete(name string, _ bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.on(true) {
		return sqlite3.IOERR_DELETE
	}
	if d.files[name] == nil {
		return sqlite3.IOERR_DELETE_NOENT
	}
	delete(d.files, name)
	return nil
}

func (d *disk) Access(name string, _ vfs.AccessFlag) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.files[name] != nil, nil
}

func (d *disk) FullPathname(name string) (string, error) { return name, nil }

func (f *diskFile) ReadAt(p []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if !f.disk.on(false) {
		return 0, sqlite3.IOERR_READ
	}
	if at >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.data[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *diskFile) WriteAt(p []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if !f.disk.on(true) {
		return 0, sqlite3.IOERR_WRITE
	}
	end := int(at) + len(p)
	f.data = append(f.data, make([]byte, max(0, end-len(f.data)))...)
	copy(f.data[at:], p)
	for n := int(at) / sector; n*sector < end; n++ {
		f.dirty[n] = true
	}
	return len(p), nil
}

func (f *diskFile) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if !f.disk.on(true) {
		return sqlite3.IOERR_TRUNCATE
	}
	f.data = f.data[:min(int(size), len(f.data))]
	maps.DeleteFunc(f.dirty, func(n int, _ bool) bool { return n*sector >= len(f.data) })
	return nil
}

func (f *diskFile) Sync(vfs.SyncFlag) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if !f.disk.on(true) {
		return sqlite3.IOERR_FSYNC
	}
	f.safe = slices.Clone(f.data)
	clear(f.dirty)
	return nil
}

func (f *diskFile) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return int64(len(f.data)), nil
}

// There is only one connection.
func (f *diskFile) Close() error                                    { return nil }
func (f *diskFile) Lock(vfs.LockLevel) error                        { return nil }
func (f *diskFile) Unlock(vfs.LockLevel) error                      { return nil }
func (f *diskFile) CheckReservedLock() (bool, error)                { return false, nil }
func (f *diskFile) SectorSize() int                                 { return sector }
func (f *diskFile) DeviceCharacteristics() vfs.DeviceCharacteristic { return 0 }

// TestPowerCuts cuts the power while changes are added and dispatched. With synchronous
// = FULL, which New requires, no acknowledged change is lost, and each counts once in the
// end. With NORMAL the same test loses some.
func TestPowerCuts(t *testing.T) {
	t.Run("FULL", func(t *testing.T) {
		t.Parallel()
		s, lost := cutPower(t, "FULL", 10)
		require.Zero(t, lost)
		s.server.ClearFaults()
		s.settle(t)
		want := slices.Repeat([]int64{1000}, 5)
		all, err := s.List(t.Context(), outbox.Filter{Limit: 1_000_000})
		require.NoError(t, err)
		for _, e := range all {
			require.Equal(t, outbox.StateApplied, e.State, "%s: %s", e.ID, e.Reason)
			var item int
			_, err := fmt.Sscanf(e.SKU, "shirt-%d", &item)
			require.NoError(t, err)
			want[item] += e.QuantityChange
		}
		for i := range want {
			require.Equal(t, want[i], s.quantity(i))
		}
		status := s.status(t)
		t.Logf("%d changes, %d requests, %d unknown, %d taken back", len(all), status.Requests, status.Unknown, status.Compensated)
	})
	t.Run("NORMAL", func(t *testing.T) {
		t.Parallel()
		_, lost := cutPower(t, "NORMAL", 10)
		require.Positive(t, lost)
		t.Logf("%d acknowledged changes lost", lost)
	})
}

// cutPower cuts the power several times. It returns the shop after the last cut, and how
// many acknowledged changes were lost.
func cutPower(t *testing.T, synchronous string, cuts int) (s *shop, lost int) {
	t.Logf("seed %d", powerSeed)
	random := rand.New(rand.NewPCG(powerSeed, 7))
	server := newServer(t, 5)
	server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Probability: 0.1, Seed: powerSeed})
	d := newDisk(random, nil)
	added := 0
	for cut := range cuts {
		s = boot(t, fmt.Sprintf("power-%s-%d", synchronous, cut), d, server, synchronous)
		d.cutAfter(100 + random.IntN(2000))
		running, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(running) }()
		var mu sync.Mutex
		var acked []string
		var adders sync.WaitGroup
		for range 3 {
			adders.Go(func() {
				for {
					mu.Lock()
					added++
					id := fmt.Sprint(added)
					mu.Unlock()
					if s.Add(t.Context(), sell(id, len(id)%5, 1)) != nil {
						return
					}
					mu.Lock()
					acked = append(acked, id)
					mu.Unlock()
				}
			})
		}
		<-d.off
		adders.Wait()
		stop()
		require.NoError(t, <-ended)
		_ = s.db.Close()

		d = newDisk(random, d.survivors())
		s = boot(t, fmt.Sprintf("look-%s-%d", synchronous, cut), d, server, synchronous)
		found, err := s.Find(t.Context(), acked...)
		require.NoError(t, err)
		lost += len(acked) - len(found)
		if cut < cuts-1 {
			require.NoError(t, s.db.Close())
			d = newDisk(random, d.survivors())
		}
	}
	return s, lost
}

const powerSeed = 3

// boot opens the shop whose database is on a disk.
func boot(t *testing.T, name string, d *disk, server *oakratest.Server, synchronous string) *shop {
	vfs.Register(name, d)
	t.Cleanup(func() { vfs.Unregister(name) })
	db, err := sql.Open("sqlite3", "file:/shop.db?vfs="+name+"&_pragma=busy_timeout(20000)&_pragma=locking_mode(EXCLUSIVE)"+
		"&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=wal_autocheckpoint(30)&_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1)
	o := options()
	o.RequestTimeout, o.Lease = 200*time.Millisecond, 20*time.Millisecond
	s := &shop{db: db, server: server}
	s.Outbox, err = outbox.New(t.Context(), db, quickClient(server).Stock, o)
	require.NoError(t, err)
	_, err = db.Exec("PRAGMA synchronous = " + synchronous)
	require.NoError(t, err)
	return s
}
