package outbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/oakra/oakra-go"
)

// runner carries out the decisions.
type runner struct {
	*Outbox
	owner string
	epoch int64
	d     dispatcher
	drain bool // end when nothing is left to do

	dbNow  instant   // latest time that the database returned
	dbSeen time.Time // local time when dbNow was returned
	leased time.Time // last renewal of the lease

	witness [2]int64                   // IDs of the witness records
	sent    sending                    // newest attempt
	landed  int64                      // number of requests that landed since this process began to lead
	suspect map[int64]int64            // value of landed when a request was first rejected for a single item that the response did not name, by request
	parked  []int64                    // changes for which OnParked has not been called yet
	held    map[oakra.StockKey]instant // times before which keys must not be looked up

	careSeq  int64     // last change that a deletion pass checked; 0 between passes
	nextCare time.Time // next time to delete old rows and look up unknown keys
	loggedAt time.Time // last time that an error in the setup was logged
}

// sending is an attempt that this process made, and how it ended.
type sending struct {
	attempt int64
	items   []item
	err     error
}

// Run dispatches until ctx ends, and returns nil once the result of the request in
// flight is recorded. Several processes may call Run: one of them dispatches, and
// another replaces it when it ends or falls silent. While the outbox is halted, Run
// waits, and continues after [Outbox.Resume]. If the database fails, Run tries again.
//
// Run returns an error only for a bad setup: there is no Stock, Options has no
// Witnesses although the account has some, or another process replaced the witnesses.
func (o *Outbox) Run(ctx context.Context) error {
	return o.dispatch(ctx, false)
}

// Drain dispatches until no change is pending and no request is queued or open, and
// then returns nil. It does not wait for the remaining attempts of a settled request,
// although they may still land. Drain is for tests, cron and periodic jobs. If another
// process dispatches, Drain waits for that one to finish.
//
// Drain returns [ErrHalted], an error of Run, an error of the database, or the error of
// ctx.
func (o *Outbox) Drain(ctx context.Context) error {
	return o.dispatch(ctx, true)
}

func (o *Outbox) dispatch(ctx context.Context, drain bool) error {
	if err := o.canDispatch(); err != nil {
		return err
	}
	host, _ := os.Hostname()
	r := &runner{Outbox: o, drain: drain, owner: fmt.Sprintf("%s pid %d %s", host, os.Getpid(), rand.Text()[:8])}
	defer r.release(context.WithoutCancel(ctx))
	for failures := 0; ; {
		if ctx.Err() != nil {
			if drain {
				return ctx.Err()
			}
			return nil
		}
		done, err := r.turn(ctx)
		switch {
		case done && err == nil:
			return nil
		case err == nil || errors.Is(err, errFenced):
			failures = 0
		case errors.Is(err, errWitnesses):
			return fmt.Errorf("outbox: %w", err)
		case drain:
			return fmt.Errorf("outbox: drain: %w", err)
		default:
			failures++
			o.log.ErrorContext(ctx, "outbox: the database failed", "error", err)
		}
		r.sleep(ctx, min(o.options.Poll, time.Second)<<min(failures, 5))
	}
}

// canDispatch returns what is missing for Run, Drain and Resume.
func (o *Outbox) canDispatch() error {
	switch {
	case o.stock == nil:
		return errors.New("outbox: this process only adds: give New a Stock to dispatch")
	case o.rules.blind && o.witnesses[0].SKU != "":
		return fmt.Errorf("outbox: the account %q has the witnesses %s and %s: name them in Options.Witnesses", o.options.Name, keyText(o.witnesses[0]), keyText(o.witnesses[1]))
	}
	return nil
}

// turn leads until something ends the lead. It reports whether everything is done.
func (r *runner) turn(ctx context.Context) (done bool, err error) {
	e, led, err := r.lead(ctx)
	if err != nil {
		return false, err
	}
	if !led {
		if !r.drain {
			return false, nil
		}
		return r.othersDone(ctx)
	}
	r.suspect, r.landed, r.sent, r.nextCare = make(map[int64]int64), 0, sending{}, time.Time{}
	r.held = make(map[oakra.StockKey]instant)
	return r.loop(ctx, e)
}

// othersDone reports whether another process has left nothing to do.
func (r *runner) othersDone(ctx context.Context) (bool, error) {
	s, err := r.Status(ctx)
	if err != nil {
		return false, err
	}
	if s.Halted != "" {
		return false, fmt.Errorf("%w: %s", ErrHalted, s.Halted)
	}
	var unsettled int64
	err = r.row(ctx, r.db, "SELECT count(*) FROM oakra_outbox_request WHERE name = $1 AND state < 2", r.options.Name).Scan(&unsettled)
	return s.Pending == 0 && unsettled == 0, err
}

// loop decides what to do and does it, until this process no longer leads.
func (r *runner) loop(ctx context.Context, e event) (done bool, err error) {
	kept := context.WithoutCancel(ctx) // the result of a started task is always recorded
	for {
		e.stopping = ctx.Err() != nil
		if e.now == 0 {
			e.now = r.now()
		}
		d, p := r.rules.decide(r.d, e)
		began := time.Now()
		if len(p.writes) > 0 || d.saved() != r.d.saved() && e.kind != eventLed {
			now, err := r.save(kept, d, p)
			if err != nil {
				return false, err
			}
			d.setDeadline(p.attempt, now+r.rules.timeout)
		}
		r.note(p)
		r.d = d
		if d.halted != "" {
			r.log.ErrorContext(ctx, "outbox: halted", "reason", d.halted)
			if r.options.OnHalt != nil {
				r.options.OnHalt(d.halted)
			}
			return false, nil
		}
		released, err := r.care(kept)
		if err != nil {
			return false, err
		}
		r.d.pending = r.d.pending || released
		switch {
		case p.task == taskStop:
			return false, nil
		case p.task == taskWait && released:
			e = event{kind: eventWoken, pending: true}
		case p.task == taskWait && r.drain && !r.d.pending && !r.d.unsettled():
			return true, nil
		default:
			if e, err = r.do(ctx, p, began); err != nil {
				return false, err
			}
		}
		if err := r.tellParked(kept); err != nil {
			return false, err
		}
	}
}

// note counts the requests that landed, which later rejections are judged by.
func (r *runner) note(p plan) {
	for _, w := range p.writes {
		if w.kind == writeApplied {
			r.landed++
		}
	}
}

// do does the task of a plan, and returns what happened.
func (r *runner) do(ctx context.Context, p plan, began time.Time) (event, error) {
	kept := context.WithoutCancel(ctx)
	switch p.task {
	case taskWait:
		r.sleep(ctx, time.Duration(min(p.until-r.d.now, r.options.Poll.Milliseconds()))*time.Millisecond)
		return r.beat(kept)
	case taskRead:
		return r.read(ctx), nil
	case taskSend:
		return r.send(kept, p, began), nil
	case taskForm:
		return r.form(ctx, p.request)
	case taskReject:
		return r.reject(kept, p)
	case taskPark:
		return r.parkUnknown(kept, p)
	}
	panic("a plan has no task")
}

// read reads the witnesses.
func (r *runner) read(ctx context.Context) event {
	began := r.now()
	found, err := r.lookup(ctx, r.witnesses[:])
	if err != nil {
		return r.failure(ctx, event{kind: eventReadFail}, "reading the witnesses", err)
	}
	e := event{kind: eventRead, began: began}
	quantities := [2]*int64{&e.head, &e.tail}
	for i, key := range r.witnesses {
		record, ok := found[key]
		if !ok {
			e.missing = keyText(key)
			continue
		}
		r.witness[i], *quantities[i] = record.ID, record.Quantity
	}
	return e
}

// lookup reads records, for as long as a request may take.
func (r *runner) lookup(ctx context.Context, keys []oakra.StockKey) (found map[oakra.StockKey]oakra.StockRecord, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.options.RequestTimeout)
	defer cancel()
	defer r.keepLease(ctx)()
	return r.stock.Lookup(ctx, keys)
}

// send makes the attempt of a committed plan. Its timeout counts from before the commit,
// and includes any time for which the process or the machine was stopped.
func (r *runner) send(ctx context.Context, p plan, began time.Time) event {
	deadline := began.Add(r.options.RequestTimeout)
	if time.Now().Round(0).Sub(began.Round(0)) > r.options.RequestTimeout { // the wall clock also counts while the machine sleeps
		deadline = began
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	records, err := r.change(ctx, p.attempt)
	r.sent.err = err
	e := event{kind: eventSent, attempt: p.attempt, result: resultOf(err)}
	if err == nil && !r.rules.blind && !r.readings(records, &e) {
		e.result = resultUnknown
	}
	if r.rules.blind && oakra.OutcomeOf(err) == oakra.OutcomeApplied {
		e.result = resultApplied
	}
	if err == nil {
		return e
	}
	var oe *oakra.Error
	if errors.As(err, &oe) {
		e.wait = min(oe.RetryAfter, 5*time.Minute).Milliseconds()
	}
	return r.failure(ctx, e, "sending a request", err)
}

// change calls Change with the witnesses around the items.
func (r *runner) change(ctx context.Context, attempt int64) ([]oakra.StockRecord, error) {
	defer r.keepLease(ctx)()
	var a attemptMove
	changes := make([]oakra.StockChange, 0, len(r.sent.items)+2)
	if !r.rules.blind {
		a = r.move(attempt)
		changes = append(changes, oakra.StockChange{ID: r.witness[0], QuantityChange: a.head})
	}
	for _, i := range r.sent.items {
		changes = append(changes, oakra.StockChange{ID: i.record, QuantityChange: i.delta})
	}
	if !r.rules.blind {
		changes = append(changes, oakra.StockChange{ID: r.witness[1], QuantityChange: a.tail})
	}
	return r.stock.Change(ctx, changes)
}

// attemptMove holds what an attempt adds to the witnesses.
type attemptMove struct{ head, tail int64 }

func (r *runner) move(id int64) attemptMove {
	for _, a := range r.d.attempts() {
		if a.id == id {
			return attemptMove{a.move(), r.rules.moveTail(a)}
		}
	}
	panic("an attempt is sent that is not open")
}

// readings takes the quantities of the witnesses from a response.
func (r *runner) readings(records []oakra.StockRecord, e *event) bool {
	seen := 0
	for _, record := range records {
		switch record.ID {
		case r.witness[0]:
			e.head = record.Quantity
			seen++
		case r.witness[1]:
			e.tail = record.Quantity
			seen++
		}
	}
	return seen == 2
}

// failure logs a failure, and sets in the event whether the setup is at fault. It logs
// failures of the setup at most once a minute.
func (r *runner) failure(ctx context.Context, e event, what string, err error) event {
	e.setup = needsSetup(err)
	level := slog.LevelInfo
	if e.setup && e.result != resultRejected && time.Since(r.loggedAt) > time.Minute {
		level, r.loggedAt = slog.LevelError, time.Now()
	}
	r.log.Log(context.WithoutCancel(ctx), level, "outbox: "+what+" failed", "error", err)
	return e
}

// beat reads the clock, checks whether changes are pending, and renews the lease if it is
// time.
func (r *runner) beat(ctx context.Context) (event, error) {
	if time.Since(r.leased) > r.options.Lease/3 {
		if err := r.renew(ctx); err != nil {
			return event{}, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	e := event{kind: eventWoken}
	var epoch int64
	var halted string
	err := r.row(ctx, r.db, `SELECT {now}, epoch, halted, EXISTS (SELECT 1 FROM oakra_outbox_change WHERE name = $1 AND state = 0)
		FROM oakra_outbox_account WHERE name = $1`, r.options.Name).Scan(&e.now, &epoch, &halted, &e.pending)
	if err == nil && (epoch != r.epoch || halted != "") {
		err = errFenced
	}
	if err == nil {
		r.seen(e.now)
	}
	return e, err
}

// renew renews the lease.
func (r *runner) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	n, err := r.exec(ctx, r.db, "UPDATE oakra_outbox_account SET until = {now} + $3 WHERE name = $1 AND epoch = $2 AND halted = ''",
		r.options.Name, r.epoch, r.options.Lease.Milliseconds())
	if err == nil && n == 0 {
		err = errFenced
	}
	if err == nil {
		r.leased = time.Now()
	}
	return err
}

// keepLease renews the lease until the function that it returns is called. A failed
// renewal does no harm, because later transactions are fenced.
func (r *runner) keepLease(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(max(r.options.Lease/3, time.Millisecond))
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				_ = r.renew(ctx)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// release lets another process take over at once.
func (r *runner) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := r.exec(ctx, r.db, "UPDATE oakra_outbox_account SET until = 0, owner = '' WHERE name = $1 AND epoch = $2 AND owner = $3",
		r.options.Name, r.epoch, r.owner)
	if err != nil {
		r.log.InfoContext(ctx, "outbox: releasing the lease failed", "error", err)
	}
}

// seen sets the clock to the database's time, as returned by a statement that has just
// renewed or checked the lease.
func (r *runner) seen(now instant) { r.dbNow, r.dbSeen = now, time.Now() }

// now estimates the database's time. The estimate is never ahead if both clocks run at
// the same speed.
func (r *runner) now() instant { return r.dbNow + time.Since(r.dbSeen).Milliseconds() }

// sleep waits until the time is over, a change is added, or ctx ends.
func (r *runner) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.wake:
	case <-ctx.Done():
	}
}

// unsettled reports whether a request is queued or open.
func (l *ledger) unsettled() bool {
	for i := range l.requests {
		if !l.requests[i].settled() {
			return true
		}
	}
	return false
}

// numbers are the fields of a ledger that every transaction saves.
type numbers struct {
	head, tail int64
	code       int
	lastID     int64
	halted     string
	counts     counts
}

func (l *ledger) saved() numbers {
	return numbers{l.head, l.tail, l.code, l.lastID, l.halted, l.counts}
}

// setDeadline sets the deadline of an attempt that was committed just now.
func (l *ledger) setDeadline(id int64, deadline instant) {
	for i := range l.requests {
		for j := range l.requests[i].open {
			if a := &l.requests[i].open[j]; a.id == id {
				a.deadline = deadline
			}
		}
	}
}
