package main

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/oakra/oakra-go/outbox"
	"github.com/oakra/oakra-go/outbox/outboxweb"
)

// warehouse is where the shop sells from.
const warehouse = "warehouse-1"

// shop is the part of this example to copy: a checkout whose orders and stock
// changes succeed together.
type shop struct {
	db       *sql.DB
	outbox   *outbox.Outbox
	password string // password of the staff; without one there are no pages for them
}

// line is one line of an order.
type line struct {
	SKU   string `json:"sku"`
	Units int64  `json:"units"`
}

// createTable makes the shop's own table; outbox.New makes those of the outbox.
func createTable(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS shop_order (id text NOT NULL PRIMARY KEY, lines text NOT NULL)")
	return err
}

// errTaken is returned if the number of an order belongs to another one.
var errTaken = errors.New("another order has this number")

// place records an order and its stock changes in one transaction. A customer who
// did not see the response places the same order again, which changes nothing.
func (s *shop) place(ctx context.Context, id string, lines []line) error {
	text, err := json.Marshal(lines)
	if err != nil {
		return err
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	inserted, err := tx.ExecContext(ctx, "INSERT INTO shop_order (id, lines) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING", id, string(text))
	if err != nil {
		return err
	}
	if n, err := inserted.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, same(ctx, tx, id, string(text)))
	}
	if err := s.outbox.AddTx(ctx, tx, changes(id, lines)...); err != nil {
		return err
	}
	return tx.Commit()
}

// same returns errTaken if the order that is there has other lines.
func same(ctx context.Context, tx *sql.Tx, id, text string) error {
	var there string
	err := tx.QueryRowContext(ctx, "SELECT lines FROM shop_order WHERE id = $1", id).Scan(&there)
	if err == nil && there != text {
		err = errTaken
	}
	return err
}

// changes returns what an order changes in the stock.
func changes(id string, lines []line) []outbox.Change {
	var all []outbox.Change
	for i, l := range lines {
		all = append(all, outbox.Change{
			ID:             fmt.Sprintf("%s/%d", id, i+1),
			SKU:            l.SKU,
			LocationID:     warehouse,
			QuantityChange: -l.Units,
		})
	}
	return all
}

func (s *shop) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /orders/{id}", s.checkout)
	mux.HandleFunc("GET /orders/{id}", s.show)
	mux.HandleFunc("GET /status", s.status)
	if s.password != "" {
		mux.Handle("/admin/outbox/", s.staffOnly(outboxweb.Handler(s.outbox, outboxweb.Options{
			AllowWrites: true,
			User:        staffName,
			Link:        orderOf,
		})))
	}
	return mux
}

// staffOnly asks for a name and the password of the staff. A real shop has a login.
func (s *shop) staffOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		if subtle.ConstantTimeCompare([]byte(password), []byte(s.password)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="staff", charset="UTF-8"`)
			http.Error(w, "for the staff only", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// staffName is the name that decisions are kept with.
func staffName(r *http.Request) string {
	name, _, _ := r.BasicAuth()
	return name
}

// orderOf is the address of the order that a change belongs to, see changes.
func orderOf(id string) string {
	return "/orders/" + url.PathEscape(id[:max(0, strings.LastIndexByte(id, '/'))])
}

// checkout places an order. The body is its lines.
func (s *shop) checkout(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	var lines []line
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&lines)
	if err == nil {
		err = check(id, lines)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch err := s.place(r.Context(), id, lines); {
	case errors.Is(err, errTaken):
		http.Error(w, err.Error(), http.StatusConflict)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func check(id string, lines []line) error {
	if len(id) > 100 || len(lines) == 0 {
		return errors.New("an order needs a number of at most 100 bytes, and a line")
	}
	for _, l := range lines {
		if l.SKU == "" || l.Units < 1 || l.Units > 1000 {
			return errors.New("a line needs a SKU, and 1 to 1000 units")
		}
	}
	return nil
}

// show shows an order, and for each line whether Oakra has it yet.
func (s *shop) show(w http.ResponseWriter, r *http.Request) {
	lines, err := s.find(r.Context(), r.PathValue("id"))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		http.NotFound(w, r)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		writeJSON(w, lines)
	}
}

// placedLine is a line of an order, and where its stock change is.
type placedLine struct {
	line
	Stock  outbox.State `json:"stock"`
	Reason string       `json:"reason,omitempty"`
}

func (s *shop) find(ctx context.Context, id string) ([]placedLine, error) {
	var text string
	var lines []line
	err := s.db.QueryRowContext(ctx, "SELECT lines FROM shop_order WHERE id = $1", id).Scan(&text)
	if err == nil {
		err = json.Unmarshal([]byte(text), &lines)
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range changes(id, lines) {
		ids = append(ids, c.ID)
	}
	entries, err := s.outbox.Find(ctx, ids...)
	var placed []placedLine
	for _, e := range entries {
		placed = append(placed, placedLine{line{e.SKU, -e.QuantityChange}, e.State, e.Reason})
	}
	return placed, err
}

// status shows how the outbox is doing.
func (s *shop) status(w http.ResponseWriter, r *http.Request) {
	status, err := s.outbox.Status(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, status)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the customer may have gone
}
