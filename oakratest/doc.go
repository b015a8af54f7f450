// Package oakratest is a fake Oakra server for tests of programs that use
// package oakra: it keeps stock records in memory, speaks the API over a
// loopback connection as strictly as a Django REST server, fails in the ways
// that networks and servers fail, and tells what really happened.
//
// A shop has a function that takes a sale out of stock:
//
//	func Sell(ctx context.Context, client *oakra.Client, id, units int64) error {
//		_, err := client.Stock.Change(ctx, []oakra.StockChange{{ID: id, QuantityChange: -units}})
//		return err
//	}
//
// and tests that a sale counts once when the answer is lost:
//
//	func TestSellAnswerLost(t *testing.T) {
//		server := oakratest.NewServer(oakra.StockRecord{ID: 123, LocationID: "warehouse-1", SKU: "shirt-green-m", Quantity: 150})
//		defer server.Close()
//		server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Times: 1})
//
//		err := Sell(t.Context(), server.Client(), 123, 2)
//
//		if oakra.OutcomeOf(err) != oakra.OutcomeUnknown {
//			t.Errorf("the shop must look at the record, got %v", err)
//		}
//		if got := server.Records()[0].Quantity; got != 148 {
//			t.Errorf("%d left of 150 after selling 2", got)
//		}
//	}
//
// # What it accepts
//
// The contract is the API reference, which leaves much open and contradicts
// itself; [Dialect] chooses between its readings. The checks come in this order,
// and a write that fails any of them changes nothing, however many records it
// names:
//
//   - a request line over 4,094 bytes: 400 with a page, as gunicorn answers;
//   - an unknown path: 404 with a page; a known one without its last slash: 301;
//   - no app key or a wrong one: 401; no version header or another: 400;
//   - another method than the path's: 405;
//   - a list without sku, or with a blank one: 400;
//   - a write whose Content-Type is not application/json: 415;
//   - a write whose body is not JSON, or not an object whose stock_records are
//     objects, one at least, with a whole id and quantity (or quantity_change),
//     spelled so: 400. Other fields are ignored, and 5.0, "5" and "5.0" are
//     whole numbers, all as Django REST has it;
//   - a write that names an unknown id, or an id twice, or would leave the range
//     of int64: 400. A quantity may fall below zero.
//
// The answer of a refused write says what is wrong with which item, and is found
// in [oakra.Error].Fields: {"stock_records":[{},{"id":["Invalid pk \"99\" - object
// does not exist."]}]}. Of a refused request it is in Message: {"detail":"..."}.
//
// It answers a list by id, and a write in the order of the request.
package oakratest
