package stockjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"testing"
)

// body returns n records as a bare array; style is "compact", "python" (a
// space after each colon and comma), "indented", or for the slow path "extra" with
// a member that is not known, and "umlaut" with a location that is not ASCII.
func body(n int, style string) []byte {
	f := `{"id":%d,"location_id":"warehouse-%d","sku":"shirt-blue-%d","quantity":%d}`
	comma := ","
	switch style {
	case "python":
		f = `{"id": %d, "location_id": "warehouse-%d", "sku": "shirt-blue-%d", "quantity": %d}`
		comma = ", "
	case "indented":
		f = "\n  {\n    \"id\": %d,\n    \"location_id\": \"warehouse-%d\",\n    \"sku\": \"shirt-blue-%d\",\n    \"quantity\": %d\n  }"
	case "extra":
		f = `{"id":%d,"location_id":"warehouse-%d","sku":"shirt-blue-%d","quantity":%d,"unit":"piece"}`
	case "umlaut":
		f = `{"id":%d,"location_id":"Köln-%d","sku":"shirt-blue-%d","quantity":%d}`
	}
	var b bytes.Buffer
	b.WriteByte('[')
	for i := range n {
		if i > 0 {
			b.WriteString(comma)
		}
		fmt.Fprintf(&b, f, 1000+i, i%7, i%1000, i*13%200)
	}
	b.WriteByte(']')
	return b.Bytes()
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1, 100, 10000} {
		for _, style := range []string{"compact", "python", "indented", "extra", "umlaut"} {
			data := body(n, style)
			per := func(b *testing.B) {
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/record")
			}
			b.Run(fmt.Sprintf("%s/%d/stockjson", style, n), func(b *testing.B) {
				b.ReportAllocs()
				r, quantity := bytes.NewReader(nil), int64(0)
				for b.Loop() {
					r.Reset(data)
					d := NewDecoder(r, 1<<30)
					var rec Record
					for d.Next(&rec) {
						quantity += rec.Quantity
					}
					if d.Err() != nil {
						b.Fatal(d.Err())
					}
					d.Close()
				}
				per(b)
				runtime.KeepAlive(quantity)
			})
			b.Run(fmt.Sprintf("%s/%d/json", style, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					var recs []Record
					if err := json.Unmarshal(data, &recs); err != nil {
						b.Fatal(err)
					}
				}
				per(b)
			})
		}
	}
}
