package outbox

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
)

// schemaVersion is the version of the tables that this package creates and uses. Tables
// with a newer version can be used if their minimum is not above this one.
const schemaVersion = 1

// migrations are the statements that lead from each version to the next, in a form
// without dialect: {seq} is the type of an automatic number, and {bool} that of a truth
// value. Statements are only ever added.
var migrations = [schemaVersion][]string{{
	`CREATE TABLE oakra_outbox_meta (version bigint NOT NULL, min_version bigint NOT NULL)`,
	`CREATE TABLE oakra_outbox_account (
	name text NOT NULL PRIMARY KEY,
	head_sku text NOT NULL DEFAULT '', head_location text NOT NULL DEFAULT '',
	tail_sku text NOT NULL DEFAULT '', tail_location text NOT NULL DEFAULT '',
	former_witnesses text NOT NULL DEFAULT '', replaced bigint NOT NULL DEFAULT 0,
	head bigint NOT NULL DEFAULT 0, tail bigint NOT NULL DEFAULT 0,
	last_code bigint NOT NULL DEFAULT 15, last_id bigint NOT NULL DEFAULT 0,
	owner text NOT NULL DEFAULT '', epoch bigint NOT NULL DEFAULT 0, until bigint NOT NULL DEFAULT 0,
	batch bigint NOT NULL DEFAULT 0, batch_until bigint NOT NULL DEFAULT 0,
	halted text NOT NULL DEFAULT '', halted_at bigint NOT NULL DEFAULT 0,
	requests bigint NOT NULL DEFAULT 0, unknown bigint NOT NULL DEFAULT 0,
	compensated bigint NOT NULL DEFAULT 0, rejected bigint NOT NULL DEFAULT 0,
	parkings bigint NOT NULL DEFAULT 0,
	last_settled bigint NOT NULL DEFAULT 0)`,
	`CREATE TABLE oakra_outbox_change (
	seq {seq},
	name text NOT NULL, id text NOT NULL,
	sku text NOT NULL, location_id text NOT NULL, quantity bigint NOT NULL,
	request bigint, state smallint NOT NULL DEFAULT 0, note text NOT NULL DEFAULT '',
	added bigint NOT NULL, settled bigint,
	reused {bool} NOT NULL DEFAULT false,
	UNIQUE (name, id),
	CONSTRAINT oakra_outbox_id_reused CHECK (NOT reused))`,
	`CREATE INDEX oakra_outbox_change_pending ON oakra_outbox_change (name, seq) WHERE state = 0`,
	`CREATE INDEX oakra_outbox_change_sent ON oakra_outbox_change (name, request) WHERE state = 1`,
	`CREATE INDEX oakra_outbox_change_parked ON oakra_outbox_change (name, seq) WHERE state = 3`,
	`CREATE INDEX oakra_outbox_change_parked_sku ON oakra_outbox_change (name, sku, seq) WHERE state = 3`,
	`CREATE INDEX oakra_outbox_change_parked_location ON oakra_outbox_change (name, location_id, seq) WHERE state = 3`,
	`CREATE INDEX oakra_outbox_change_dropped ON oakra_outbox_change (name, seq) WHERE state = 4`,
	`CREATE TABLE oakra_outbox_request (
	name text NOT NULL, id bigint NOT NULL,
	state smallint NOT NULL DEFAULT 0, undoes bigint NOT NULL DEFAULT 0, part_of bigint NOT NULL DEFAULT 0,
	tried bigint NOT NULL DEFAULT 0, note text NOT NULL DEFAULT '', added bigint NOT NULL, settled bigint,
	PRIMARY KEY (name, id))`,
	`CREATE INDEX oakra_outbox_request_unsettled ON oakra_outbox_request (name, id) WHERE state < 2`,
	`CREATE TABLE oakra_outbox_item (
	name text NOT NULL, request bigint NOT NULL, sku text NOT NULL, location_id text NOT NULL,
	record bigint NOT NULL, delta bigint NOT NULL,
	PRIMARY KEY (name, request, sku, location_id))`,
	`CREATE TABLE oakra_outbox_attempt (
	name text NOT NULL, id bigint NOT NULL, request bigint NOT NULL,
	code bigint NOT NULL, sign bigint NOT NULL, state smallint NOT NULL DEFAULT 0,
	deadline bigint NOT NULL, grace bigint NOT NULL, added bigint NOT NULL, settled bigint,
	PRIMARY KEY (name, id))`,
	`CREATE INDEX oakra_outbox_attempt_request ON oakra_outbox_attempt (name, request)`,
	`CREATE INDEX oakra_outbox_attempt_open ON oakra_outbox_attempt (name, id) WHERE state = 0`,
	`CREATE TABLE oakra_outbox_record (
	name text NOT NULL, sku text NOT NULL, location_id text NOT NULL,
	id bigint NOT NULL, looked bigint NOT NULL,
	PRIMARY KEY (name, sku, location_id))`,
	`CREATE TABLE oakra_outbox_event (
	seq {seq},
	name text NOT NULL, change bigint NOT NULL, at bigint NOT NULL,
	who text NOT NULL, action text NOT NULL, note text NOT NULL)`,
	`CREATE INDEX oakra_outbox_event_change ON oakra_outbox_event (change)`,
	`INSERT INTO oakra_outbox_meta (version, min_version) VALUES (1, 1)`,
}}

// Schema returns the statements that lead the tables of a dialect, "sqlite" or
// "postgres", from a version to the newest, for migration tools such as goose and
// atlas. From 0 it creates them; from the newest version, and for another dialect,
// it returns none. With [Options].NoMigrate, [New] leaves the tables alone.
func Schema(dialect string, from int) []string {
	d := dialectNamed(dialect)
	if d == nil || from < 0 || from >= schemaVersion {
		return nil
	}
	var all []string
	for _, statement := range slices.Concat(migrations[from:]...) {
		all = append(all, d.ddl(statement))
	}
	return all
}

// migrate creates or changes the tables, unless they are new enough.
func (o *Outbox) migrate(ctx context.Context) error {
	version, err := o.checkVersion(ctx)
	if err != nil || version >= schemaVersion {
		return err
	}
	statements := Schema(o.dialect.name, version)
	if o.options.NoMigrate {
		return fmt.Errorf("the tables have version %d and version %d is needed: apply the statements of outbox.Schema(%q, %d), or leave NoMigrate unset",
			version, schemaVersion, o.dialect.name, version)
	}
	err = o.transact(ctx, func(tx *sql.Tx) error {
		for _, statement := range statements {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		return nil
	}
	// Another process may have created the tables at the same moment.
	if version, again := o.checkVersion(ctx); again == nil && version >= schemaVersion {
		return nil
	}
	return fmt.Errorf("creating the tables: %w", err)
}

// checkVersion returns the version of the tables, or 0 if there are none.
func (o *Outbox) checkVersion(ctx context.Context) (version int, err error) {
	var tables int
	if err := o.db.QueryRowContext(ctx, o.dialect.hasMeta).Scan(&tables); err != nil || tables == 0 {
		return 0, err
	}
	var minimum int
	if err := o.db.QueryRowContext(ctx, "SELECT version, min_version FROM oakra_outbox_meta").Scan(&version, &minimum); err != nil {
		return 0, err
	}
	if minimum > schemaVersion {
		return 0, fmt.Errorf("the tables have version %d, which needs a newer version of this package: it knows version %d", version, schemaVersion)
	}
	return version, nil
}
