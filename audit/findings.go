package audit

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/audit/findings"
)

// foundBy marks the findings that an audit of everything keeps: it also ends
// those that are over.
const foundBy = "audit"

// maxRecorded bounds the findings of one audit; the rest is in its figures.
const maxRecorded = 200

const auditedSQL = `
select kind, subject
from audit_findings
where found_by = $1
  and resolved_at is null`

const healedSQL = `
update audit_findings
set resolved_at = now(),
    resolved_by = $1,
    resolution = 'an audit found the books equal'
where kind in ('reconcile_error', 'invariant_broken')
  and resolved_at is null`

// Note writes an audit's differences to audit_findings, so that operators hear
// of each once, and resolves those that it did not find any more. A counter's
// drift is noted by Reconcile, with what was done about it. The audit must have
// been of everything.
func Note(ctx context.Context, pool *pgxpool.Pool, r *Report) error {
	current := map[[2]string]bool{}
	drifting := false
	for i := range r.Differences {
		d := &r.Differences[i]
		if d.Kind == CounterDiffers || d.Kind == CounterMissing || d.Kind == CounterExtra {
			drifting = true
			continue
		}
		if len(current) == maxRecorded {
			break
		}
		f := d.finding()
		current[[2]string{f.Kind, f.Subject}] = true
		if err := findings.Record(ctx, pool, f); err != nil {
			return err
		}
	}
	if !drifting {
		if _, err := pool.Exec(ctx, healedSQL, foundBy); err != nil {
			return fmt.Errorf("resolve errors of counters that are over: %w", err)
		}
	}
	return resolveOthers(ctx, pool, current)
}

// resolveOthers ends the findings of earlier audits that are not current.
func resolveOthers(ctx context.Context, pool *pgxpool.Pool, current map[[2]string]bool) error {
	rows, _ := pool.Query(ctx, auditedSQL, foundBy)
	open, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (key [2]string, err error) {
		err = row.Scan(&key[0], &key[1])
		return key, err
	})
	if err != nil {
		return fmt.Errorf("list what audits have found: %w", err)
	}
	for _, key := range open {
		if current[key] {
			continue
		}
		if err := findings.Resolve(ctx, pool, key[0], key[1], foundBy, "an audit found it no more"); err != nil {
			return err
		}
	}
	return nil
}

// finding is the difference as operators are told of it.
func (d *Difference) finding() findings.Finding {
	f := findings.Finding{
		Kind: d.Kind, Agent: d.Agent, FoundBy: foundBy,
		Detail: fmt.Sprintf("%s: expected %s, found %s: %s; %s", d.Where, d.Expected, d.Found, d.Cause, d.Repair.Text),
	}
	subject := []string{d.Agent, d.Where}
	if d.Tenant != nil && *d.Tenant != uuid.Nil {
		f.Tenant = *d.Tenant
		subject = append(subject, d.Tenant.String())
	}
	if d.Period != nil {
		f.Period = *d.Period
		subject = append(subject, d.Period.UTC().Format("2006-01-02T15:04:05.999999Z"))
	}
	f.Subject = strings.TrimSpace(strings.Join(subject, " "))
	f.Detail = strings.TrimPrefix(f.Detail, ": ")
	return f
}
