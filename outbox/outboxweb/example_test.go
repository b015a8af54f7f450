package outboxweb_test

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/oakra/oakra-go/outbox"
	"github.com/oakra/oakra-go/outbox/outboxweb"
)

// The pages are mounted in the shop's own admin, behind its login, which knows the names
// of the staff.
func ExampleHandler() {
	var (
		box     *outbox.Outbox                       // from outbox.New
		session func(r *http.Request) (name string)  // the shop's login
		staff   func(next http.Handler) http.Handler // lets nobody else in
	)
	mux := http.NewServeMux()
	mux.Handle("/admin/outbox/", staff(outboxweb.Handler(box, outboxweb.Options{
		AllowWrites: true,
		User:        session,
		Link: func(id string) string { // order-1001/2 belongs to order-1001
			order, _, _ := strings.Cut(id, "/")
			return "/admin/orders/" + url.PathEscape(order)
		},
	})))
}
