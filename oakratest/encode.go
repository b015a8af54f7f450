package oakratest

import (
	"encoding/json"
	"strconv"

	"github.com/oakra/oakra-go"
)

// encode returns the body of a response with records.
func (d *Dialect) encode(op string, records []oakra.StockRecord) []byte {
	array := d.WriteArray
	if op == opList {
		array = !d.ListObject
	}
	begin, end := `{"stock_records":[`, `]}`
	if array {
		begin, end = `[`, `]`
	}
	before, after := "", "}"
	switch d.Quantities {
	case QuantityDecimal:
		after = ".0}"
	case QuantityString:
		before, after = `"`, `"}`
	}

	const perRecord = len(`{"id":123456,"location_id":"warehouse-1","sku":"shirt-green-m","quantity":12345},`)
	b := make([]byte, 0, (len(records)+1)*perRecord)
	b = append(b, begin...)
	for i, r := range records {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"id":`...)
		b = strconv.AppendInt(b, r.ID, 10)
		b = append(b, `,"location_id":`...)
		b = appendString(b, r.LocationID)
		b = append(b, `,"sku":`...)
		b = appendString(b, r.SKU)
		b = append(b, `,"quantity":`...)
		b = append(b, before...)
		b = strconv.AppendInt(b, r.Quantity, 10)
		b = append(b, after...)
	}
	return append(b, end...)
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // no string fails
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
