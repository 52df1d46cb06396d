// Package findings records what was found wrong, for operators: what it is about,
// what to do, and who resolved it how. Reporter, audit and subscriptions write
// findings; the alerts job sends them to people.
//
// An open finding is one row, however often it is found again, so that a job may
// check every minute without flooding anybody. A finding is never deleted:
// resolving it records who, when and how.
package findings

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Finding is something wrong that a person should know.
type Finding struct {
	Kind    string // what it is, in snake case: "second_subscription"
	Subject string // what it is about; with Kind it identifies an open finding
	Tenant  uuid.UUID
	Agent   string
	Period  time.Time // the period's start
	Detail  string    // one line: what is wrong, with which values, what to do next
	Before  *int64    // the figure that was found
	After   *int64    // the figure that it should be, or was repaired to
	FoundBy string    // the job or command that found it
}

// querier is a pool or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// A finding that is found again keeps its time and takes the newest figures.
const recordSQL = `
insert into audit_findings as f (
    kind, subject, tenant_id, agent, period_start, detail, before, after, found_by
)
values ($1, $2, $3, nullif($4, ''), $5, $6, $7, $8, $9)
on conflict (kind, subject) where resolved_at is null do update
set detail = excluded.detail,
    before = excluded.before,
    after = excluded.after
where (f.detail, f.before, f.after) is distinct from (excluded.detail, excluded.before, excluded.after)`

// Record records a finding, or renews the open one with its kind and subject.
func Record(ctx context.Context, q querier, f Finding) error {
	var tenant *uuid.UUID
	if f.Tenant != uuid.Nil {
		tenant = &f.Tenant
	}
	var period *time.Time
	if !f.Period.IsZero() {
		period = &f.Period
	}
	_, err := q.Exec(ctx, recordSQL, f.Kind, f.Subject, tenant, f.Agent, period, f.Detail, f.Before, f.After, f.FoundBy)
	if err != nil {
		return fmt.Errorf("record finding %s of %s: %w", f.Kind, f.Subject, err)
	}
	return nil
}

const resolveSQL = `
update audit_findings
set resolved_at = now(),
    resolved_by = $3,
    resolution = $4
where kind = $1
  and subject = $2
  and resolved_at is null`

// Resolve closes an open finding; without one it does nothing.
func Resolve(ctx context.Context, q querier, kind, subject, who, how string) error {
	if _, err := q.Exec(ctx, resolveSQL, kind, subject, who, how); err != nil {
		return fmt.Errorf("resolve finding %s of %s: %w", kind, subject, err)
	}
	return nil
}

const resolveByIDSQL = `
update audit_findings
set resolved_at = now(),
    resolved_by = $2,
    resolution = $3
where finding_id = $1
  and resolved_at is null`

// ResolveByID closes a finding by its number; one that is resolved, or is not
// there, stays as it is.
func ResolveByID(ctx context.Context, q querier, id int64, who, how string) error {
	if _, err := q.Exec(ctx, resolveByIDSQL, id, who, how); err != nil {
		return fmt.Errorf("resolve finding %d: %w", id, err)
	}
	return nil
}

const openSQL = `
select subject
from audit_findings
where kind = $1
  and resolved_at is null`

// Open returns the subjects of the open findings of a kind.
func Open(ctx context.Context, q querier, kind string) (map[string]bool, error) {
	rows, _ := q.Query(ctx, openSQL, kind)
	subjects, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list open findings %s: %w", kind, err)
	}
	open := make(map[string]bool, len(subjects))
	for _, subject := range subjects {
		open[subject] = true
	}
	return open, nil
}
