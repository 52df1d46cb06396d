package alerts

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer/audit/findings"
)

const (
	volumeEvents = 100_000          // above this a tenant's period is worth a word
	volumeEvery  = 10 * time.Minute // how often the counters are looked through
	volumeAnyway = 24 * time.Hour   // when a tenant's events are counted anew whatever its units say
	volumeAtOnce = 20               // tenants whose events one look counts at most
)

// volume remembers what was found of tenants that may have many events.
// Counting the events of a period reads all of the tenant's, so it is done only
// where it can have changed the answer: each event adds one unit at least, so
// with n events at u units there are no more than 100,000 before there are
// u + 100,000 - n units. Only a correction downwards breaks that rule, and is
// made up for within a day.
type volume struct {
	next    time.Time // when to look through the counters
	counted map[tenantPeriod]counted
}

type tenantPeriod struct {
	tenant uuid.UUID
	start  int64 // Unix microseconds
}

// counted is what a period's events were when they were last counted.
type counted struct {
	at            time.Time
	units, events int64
}

// due reports whether the answer can have changed.
func (c counted) due(now time.Time, units int64) bool {
	return now.Sub(c.at) >= volumeAnyway || units-c.units > volumeEvents-c.events
}

// tenantVolume finds tenants with more events in a period than usual customers
// have. What was found stands until the period is closed.
func (a *Alerts) tenantVolume(ctx context.Context, now time.Time) (int, error) {
	if err := a.resolveVolume(ctx); err != nil {
		return 0, err
	}
	if now.Before(a.volume.next) {
		return 0, nil
	}
	candidates, err := a.volumeCandidates(ctx)
	if err != nil {
		return 0, err
	}
	known := make(map[tenantPeriod]counted, len(candidates))
	found, looks := 0, 0
	for _, c := range candidates {
		key := tenantPeriod{c.Tenant, c.Start.UnixMicro()}
		last, seen := a.volume.counted[key]
		if seen && !last.due(now, c.Units) {
			known[key] = last
			continue
		}
		if looks++; looks > volumeAtOnce {
			if seen {
				known[key] = last
			}
			continue
		}
		events, err := a.countEvents(ctx, c)
		if err != nil {
			return found, err
		}
		known[key] = counted{now, c.Units, events}
		if events > volumeEvents {
			found++
		}
	}
	a.volume.counted = known
	if looks <= volumeAtOnce { // else the next look goes on at once
		a.volume.next = now.Add(volumeEvery)
	}
	return found, nil
}

// candidate is a period with enough units to hold too many events.
type candidate struct {
	Tenant uuid.UUID
	Start  time.Time
	Units  int64
}

// Those that stand as findings need no second look.
const volumeCandidatesSQL = `
select c.tenant_id as tenant, c.period_start as start, sum(c.count)::bigint as units
from billing_periods p
join usage_counters c on c.tenant_id = p.tenant_id and c.period_start = p.period_start
where p.status = 'open'
  and not exists (
      select
      from audit_findings f
      where f.kind = '` + kindTenantVolume + `'
        and f.tenant_id = p.tenant_id
        and f.period_start = p.period_start
        and f.resolved_at is null
  )
group by c.tenant_id, c.period_start
having sum(c.count) > $1`

func (a *Alerts) volumeCandidates(ctx context.Context) ([]candidate, error) {
	rows, _ := a.Pool.Query(ctx, volumeCandidatesSQL, volumeEvents)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[candidate])
	if err != nil {
		return nil, fmt.Errorf("look for tenants with many events: %w", err)
	}
	return found, nil
}

// Counting stops where the answer is known. What retention removed counts too.
const countEventsSQL = `
select
    (
        select count(*)
        from (select from usage_events where tenant_id = $1 and period_start = $2 limit $3 + 1) as e
    ) + coalesce((
        select sum(events)
        from usage_removed
        where tenant_id = $1 and period_start = $2
    ), 0)::bigint`

// countEvents counts a period's events and records the finding.
func (a *Alerts) countEvents(ctx context.Context, c candidate) (events int64, err error) {
	err = a.Pool.QueryRow(ctx, countEventsSQL, c.Tenant, c.Start, volumeEvents).Scan(&events)
	if err != nil {
		return 0, fmt.Errorf("count events of tenant %s: %w", c.Tenant, err)
	}
	if events <= volumeEvents {
		return events, nil
	}
	return events, findings.Record(ctx, a.Pool, findings.Finding{
		Kind: kindTenantVolume, Subject: fmt.Sprintf("%s %s", c.Tenant, c.Start.UTC().Format(time.RFC3339)),
		Tenant: c.Tenant, Period: c.Start, FoundBy: foundBy,
		Detail: fmt.Sprintf("tenant %s has more than %d events in the period from %s (%d units); see whether an agent runs wild: odometer usage --tenant %s",
			c.Tenant, volumeEvents, c.Start.UTC().Format(time.RFC3339), c.Units, c.Tenant),
	})
}

const resolveVolumeSQL = `
update audit_findings f
set resolved_at = now(),
    resolved_by = $2,
    resolution = 'the period is closed'
where f.kind = $1
  and f.resolved_at is null
  and not exists (
      select
      from billing_periods p
      where p.tenant_id = f.tenant_id
        and p.period_start = f.period_start
        and p.status = 'open'
  )`

func (a *Alerts) resolveVolume(ctx context.Context) error {
	if _, err := a.Pool.Exec(ctx, resolveVolumeSQL, kindTenantVolume, foundBy); err != nil {
		return fmt.Errorf("resolve findings %s: %w", kindTenantVolume, err)
	}
	return nil
}
