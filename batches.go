package oakra

import "slices"

// batch is what one request sends.
type batch struct {
	items []int32 // indexes of the merged items
	part  bool    // whether it was cut smaller, because of a rejection
	whole *halved // request that it is a half of, if it is one
	trial bool    // whether it is larger than any that passed, to find the limit
}

// halved is a request whose rejection named no item.
type halved struct {
	size   int
	passed int // number of its halves that passed
	trial  bool
}

// batches holds what a run still has to send. If both halves of a rejected request
// pass, no item was at fault, and the server has a limit: one batch at a time looks for
// it between the largest size that passed and the smallest that did not, while the
// others have the size that passed.
type batches struct {
	size  int     // largest batch
	items []int32 // in the order in which they are sent
	parts []batch // parts of rejected requests, which go first, the last of them before the others

	passed int  // size of the largest request that passed
	limit  int  // size of the smallest that was too large; 0 if none is known
	trying bool // whether a trial, or one of its halves, is under way
}

func newBatches(size, items int) batches {
	q := batches{size: size, items: make([]int32, items)}
	for i := range q.items {
		q.items[i] = int32(i)
	}
	return q
}

func (q *batches) empty() bool { return len(q.items) == 0 && len(q.parts) == 0 }

// take removes the next batch.
func (q *batches) take() batch {
	if last := len(q.parts) - 1; last >= 0 {
		b := q.parts[last]
		q.parts = q.parts[:last]
		return b
	}
	b := batch{part: q.limit > 0}
	size := q.size
	if q.limit > 0 {
		size = q.passed
		if middle := (q.passed + q.limit) / 2; middle > size && middle <= len(q.items) && !q.trying {
			size, b.trial, q.trying = middle, true, true
		}
	}
	size = min(size, len(q.items))
	b.items, q.items = q.items[:size:size], q.items[size:]
	return b
}

// takeAll removes all items.
func (q *batches) takeAll() []int32 {
	all := q.items
	for _, b := range q.parts {
		all = append(all, b.items...)
	}
	q.items, q.parts = nil, nil
	return all
}

// putBack adds a batch that was not sent, behind all others.
func (q *batches) putBack(b batch) { q.items = append(q.items, b.items...) }

// again adds the rest of a rejected request.
func (q *batches) again(items []int32) {
	q.parts = append(q.parts, batch{items: items, part: true})
}

// halve adds the halves of a rejected request, or what is known to be too large as
// items to be cut anew.
func (q *batches) halve(b batch) {
	if q.limit > 0 && len(b.items) >= q.limit {
		q.items = slices.Concat(b.items, q.items)
		return
	}
	middle := len(b.items) / 2
	whole := &halved{size: len(b.items), trial: b.trial}
	q.trying = q.trying || b.trial
	q.parts = append(q.parts,
		batch{items: b.items[middle:], part: true, whole: whole},
		batch{items: b.items[:middle], part: true, whole: whole})
}

// failed learns from a request that did not pass.
func (q *batches) failed(b batch) {
	if b.trial || b.whole != nil && b.whole.trial {
		q.trying = false
	}
}

// accepted learns from a request that passed.
func (q *batches) accepted(b batch) {
	q.passed = max(q.passed, len(b.items))
	if b.trial {
		q.trying = false
	}
	if q.limit <= q.passed {
		q.limit = 0 // what was rejected was not too large
	}
	if b.whole == nil {
		return
	}
	if b.whole.passed++; b.whole.passed < 2 {
		return
	}
	if b.whole.trial {
		q.trying = false
	}
	if size := b.whole.size; size > q.passed && (q.limit == 0 || size < q.limit) {
		q.limit = size
	}
}
