package oakra

import (
	"slices"

	"github.com/oakra/oakra-go/internal/stockjson"
)

// decode reads all records of an answer whose body has length bytes, or -1 if
// that is not known.
func decode(d *stockjson.Decoder, length int64) ([]StockRecord, error) {
	records := []StockRecord{}
	for d.Next() {
		if len(records) == cap(records) {
			records = slices.Grow(records, more(len(records), d.Offset(), length))
		}
		records = append(records, StockRecord(d.Record()))
	}
	return records, d.Err()
}

// more guesses how many records are to come, from the size of those that have
// been: a slice that grows step by step costs twice the memory.
func more(have int, offset, length int64) int {
	const (
		first  = 256 // records, to learn their size from
		sizeOf = 64  // bytes of a short one
	)
	length = min(length, maxBody)
	switch {
	case length <= 0:
		return 1
	case have == 0:
		return int(min(length/sizeOf, first)) + 1
	default:
		left := max(0, length-offset)
		return int(float64(left)/float64(offset)*float64(have)*1.02) + 1
	}
}

// missingIDs returns which of the ids have no record. Servers answer in the
// order of the request, where no map is needed.
func missingIDs(ids []int64, records []StockRecord) []int64 {
	for len(ids) > 0 && len(records) > 0 && ids[0] == records[0].ID {
		ids, records = ids[1:], records[1:]
	}
	if len(ids) == 0 {
		return nil
	}
	here := make(map[int64]struct{}, len(records))
	for i := range records {
		here[records[i].ID] = struct{}{}
	}
	var missing []int64
	for _, id := range ids {
		if _, ok := here[id]; !ok {
			missing = append(missing, id)
		}
	}
	return missing
}
