// Package oakratest is a fake Oakra server for tests of programs that use
// package oakra. It keeps stock records in memory, checks requests as strictly as
// a Django REST server does, fails in the ways that networks and servers fail, and
// reports what really happened.
//
// A shop has a function that takes a sale out of stock:
//
//	func Sell(ctx context.Context, client *oakra.Client, id, units int64) error {
//		_, err := client.Stock.Change(ctx, []oakra.StockChange{{ID: id, QuantityChange: -units}})
//		return err
//	}
//
// Its test checks that a sale counts once when the response is lost:
//
//	func TestSellResponseLost(t *testing.T) {
//		server := oakratest.Start(t, oakra.StockRecord{ID: 123, LocationID: "warehouse-1", SKU: "shirt-green-m", Quantity: 150})
//		server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Times: 1})
//
//		err := Sell(t.Context(), server.Client(), 123, 2)
//
//		if oakra.OutcomeOf(err) != oakra.OutcomeUnknown {
//			t.Errorf("the outcome must be unknown, got %v", err)
//		}
//		if got := server.Quantity(123); got != 148 {
//			t.Errorf("%d left of 150 after selling 2", got)
//		}
//	}
//
// # Time
//
// A client made by [Server.Client] is connected in memory. In a bubble of
// testing/synctest, with the server made there too, every wait of client and server
// takes no real time: a Retry-After, the backoff between attempts, a timeout, the
// Delay of a fault. The test continues with the clock at the end of the wait:
//
//	func TestSellAppliedLate(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			server := oakratest.Start(t, oakra.StockRecord{ID: 123, LocationID: "warehouse-1", SKU: "shirt-green-m", Quantity: 150})
//			server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ApplyLate, Delay: 30 * time.Second, Times: 1})
//
//			_ = Sell(t.Context(), server.Client(), 123, 2)
//			if got := server.Quantity(123); got != 150 {
//				t.Errorf("%d in stock before the sale is applied", got)
//			}
//			time.Sleep(30 * time.Second)
//			synctest.Wait()
//			if got := server.Quantity(123); got != 148 {
//				t.Errorf("%d in stock after the sale was applied", got)
//			}
//		})
//	}
//
// To do something while a request is in flight, delay it and call [Server.Wait].
//
// Outside of a bubble the server also listens at its URL, for other programs and for
// clients with real connections.
//
// # What the server accepts
//
// The contract is the API reference. It leaves much open and contradicts itself;
// a [Dialect] chooses between its readings. The checks run in this order, and a
// write that fails any of them changes nothing, however many records it names, unless
// the dialect saves item by item:
//
//   - a request line over 4,094 bytes: 400 with a page, as gunicorn responds;
//   - an unknown path: 404 with a page, or as [UnknownPath] says; a known path without
//     its last slash: 301;
//   - no app key or a wrong one: 401; no version header or another version: 400;
//   - a method that the path does not have: 405;
//   - a list without sku, or with a blank one: 400;
//   - a write whose Content-Type is not application/json: 415;
//   - a write whose body is not JSON, or is not an object whose stock_records is a
//     list of at least one object, each with a whole id and quantity (or
//     quantity_change): 400. Names must match exactly. Other fields are ignored, and
//     5.0, "5" and "5.0" are whole numbers, as in Django REST;
//   - a write that names an unknown id, or an id twice, or whose result would not
//     fit into an int64: 400. A quantity may fall below zero, unless the dialect
//     rejects that.
//
// In the newest state of the reference, see [Dialect], there are sales as well:
//
//   - a sales.cancel without sale_id, or without one of the three reasons: 400;
//   - a shipping.init whose sale_ids is not a list of at least one string: 400;
//   - a sales.cancel or shipping.init of an unknown sale, a sales.cancel of a canceled
//     sale, a shipping.init of a sale that is not pending or is named twice: 400, and
//     none of its sales changes.
//
// The response to a rejected write says what is wrong with which item, and the
// client has it in [oakra.Error].Fields: {"stock_records":[{},{"id":["Invalid pk
// \"99\" - object does not exist."]}]}. Where the request itself is wrong, the text
// is in Message: {"detail":"..."}.
//
// A list is ordered by id, and the response to a write in the order of the request.
package oakratest
