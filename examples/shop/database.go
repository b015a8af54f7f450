package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// newDatabase returns an empty database: a file, or a schema of its own in a
// PostgreSQL database. The function removes it.
func newDatabase(ctx context.Context, postgres string) (name string, remove func() error, err error) {
	if postgres == "" {
		dir, err := os.MkdirTemp("", "oakra-shop")
		return filepath.Join(dir, "shop.db"), func() error { return os.RemoveAll(dir) }, err
	}
	u, err := url.Parse(postgres)
	if err != nil {
		return "", nil, errors.New("DATABASE_URL must be a URL, such as postgres://user:password@host/database")
	}
	schema := "oakra_shop_" + strings.ToLower(rand.Text()[:8])
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
	run := func(ctx context.Context, statement string) error {
		db, err := openDatabase(postgres)
		if err != nil {
			return err
		}
		defer db.Close()
		_, err = db.ExecContext(ctx, statement)
		return err
	}
	remove = func() error { return run(context.WithoutCancel(ctx), "DROP SCHEMA "+schema+" CASCADE") }
	return u.String(), remove, run(ctx, "CREATE SCHEMA "+schema)
}

// placed is what the shop's database says in the end.
type placed struct {
	orders map[string]bool
	units  map[string]int64 // sold, by SKU
}

func readOrders(ctx context.Context, name string) (placed, error) {
	p := placed{make(map[string]bool), make(map[string]int64)}
	db, err := openDatabase(name)
	if err != nil {
		return p, err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, "SELECT id, lines FROM shop_order")
	if err != nil {
		return p, err
	}
	defer rows.Close()
	for rows.Next() {
		if err := p.read(rows); err != nil {
			return p, err
		}
	}
	return p, rows.Err()
}

func (p placed) read(rows *sql.Rows) error {
	var id, text string
	var lines []line
	if err := rows.Scan(&id, &text); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), &lines); err != nil {
		return err
	}
	p.orders[id] = true
	for _, l := range lines {
		p.units[l.SKU] += l.Units
	}
	return nil
}
