package reporter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
)

// mirrorBucket is the NATS key-value bucket that mirrors ledgers outside of
// Postgres, by the ledger's id.
const mirrorBucket = "odometer_ledger"

// mirror is what is kept outside of Postgres: how many passes have sent, and
// after the last one, how much Stripe had accepted in all.
type mirror struct {
	Generation int64     `json:"generation"`
	Units      *int64    `json:"units"` // nil while a pass runs, or when one died
	At         time.Time `json:"at"`
}

// generation is the ledger's number beside its mirror's.
type generation struct {
	ledger   uuid.UUID
	number   int64
	hasSent  bool
	mirror   *mirror // nil: there is none
	revision uint64
	bucket   jetstream.KeyValue
}

const ledgerSQL = `
select
    ledger_id,
    generation,
    exists (select from overage_reports where first_attempt_at is not null)
from ledger`

// generation reads both numbers.
func (r *Reporter) generation(ctx context.Context) (*generation, error) {
	g := &generation{}
	if err := r.Pool.QueryRow(ctx, ledgerSQL).Scan(&g.ledger, &g.number, &g.hasSent); err != nil {
		return nil, fmt.Errorf("read the ledger's generation: %w", err)
	}
	bucket, err := r.NATS.KeyValue(ctx, mirrorBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		bucket, err = r.NATS.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: mirrorBucket, Description: "Odometer: how many passes have sent, by ledger", Storage: jetstream.FileStorage,
		})
	}
	if err != nil {
		return nil, fmt.Errorf("open the NATS bucket %s: %w", mirrorBucket, err)
	}
	g.bucket = bucket
	entry, err := bucket.Get(ctx, g.ledger.String())
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return g, nil
	case err != nil:
		return nil, fmt.Errorf("read the mirror of ledger %s: %w", g.ledger, err)
	}
	g.mirror, g.revision = &mirror{}, entry.Revision()
	if err := json.Unmarshal(entry.Value(), g.mirror); err != nil {
		return nil, fmt.Errorf("read the mirror of ledger %s: %w", g.ledger, err)
	}
	return g, nil
}

// restored says why the ledger must not be believed, nil when it may be. One
// ahead of the mirror is a crash between the two.
func (g *generation) restored() error {
	switch {
	case g.mirror == nil && !g.hasSent:
		return nil
	case g.mirror == nil:
		return fmt.Errorf("%w: its mirror in the NATS bucket %s is gone: compare it with Stripe by: odometer jobs run verify (when Postgres was restored as well, an hour after the last report at the earliest)",
			ErrRestored, mirrorBucket)
	case g.number < g.mirror.Generation:
		return fmt.Errorf("%w: it knows of %d passes, its mirror of %d; a backup was restored: compare it with Stripe by: odometer jobs run verify",
			ErrRestored, g.number, g.mirror.Generation)
	case g.number > g.mirror.Generation+1:
		return fmt.Errorf("%w: it knows of %d passes, its mirror of %d; NATS was restored: compare it with Stripe by: odometer jobs run verify",
			ErrRestored, g.number, g.mirror.Generation)
	}
	return nil
}

// intact checks the ledger's rows against the mirror before anything is told by
// them: a row that was lost would be told again.
func (r *Reporter) intact(ctx context.Context, g *generation) error {
	if g.mirror == nil || g.mirror.Units == nil || g.number != g.mirror.Generation {
		return nil // a pass died: its rows tell how far it came
	}
	have, err := units(ctx, r.Pool)
	if err != nil {
		return err
	}
	if have != *g.mirror.Units {
		return fmt.Errorf("%w: its rows add up to %d units, but %d were accepted by the end of the last pass; rows were lost or changed: compare it with Stripe by: odometer jobs run verify",
			ErrRestored, have, *g.mirror.Units)
	}
	return nil
}

const raiseGenerationSQL = `
update ledger
set generation = $1`

// raise begins a pass that sends: first in Postgres, then in the mirror. A
// number that never came to the mirror was not sent under, and is taken.
func (r *Reporter) raise(ctx context.Context, g *generation) error {
	if g.mirror == nil || g.number <= g.mirror.Generation {
		g.number++
	}
	if _, err := r.Pool.Exec(ctx, raiseGenerationSQL, g.number); err != nil {
		return fmt.Errorf("raise the ledger's generation to %d: %w", g.number, err)
	}
	return r.reflect(ctx, g, nil)
}

// suspect gives a ledger whose mirror is gone one that is ahead of it. From its
// time on it is known that nothing is sent.
func (r *Reporter) suspect(ctx context.Context, g *generation) error {
	ahead := *g
	ahead.number++
	if err := r.reflect(ctx, &ahead, nil); err != nil {
		return err
	}
	g.mirror, g.revision = ahead.mirror, ahead.revision
	return nil
}

// reflect writes the mirror, unless somebody else has since it was read.
func (r *Reporter) reflect(ctx context.Context, g *generation, units *int64) error {
	next := mirror{Generation: g.number, Units: units, At: r.now()}
	value, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if g.mirror == nil {
		g.revision, err = g.bucket.Create(ctx, g.ledger.String(), value)
	} else {
		g.revision, err = g.bucket.Update(ctx, g.ledger.String(), value, g.revision)
	}
	if err != nil {
		return fmt.Errorf("mirror generation %d of ledger %s in NATS: %w", g.number, g.ledger, err)
	}
	g.mirror = &next
	return nil
}

const unitsSQL = `
select coalesce(sum(to_total - from_total), 0)::bigint
from overage_reports
where state in ('accepted', 'verified')
  and origin <> 'invoiced'`

// units is how much Stripe has accepted in all, as the ledger knows it.
func units(ctx context.Context, q querier) (n int64, err error) {
	if err := q.QueryRow(ctx, unitsSQL).Scan(&n); err != nil {
		return 0, fmt.Errorf("add up the ledger: %w", err)
	}
	return n, nil
}

// finish ends a pass that has sent: the mirror says what Stripe has.
func (r *Reporter) finish(ctx context.Context, g *generation) error {
	n, err := units(ctx, r.Pool)
	if err != nil {
		return err
	}
	return r.reflect(ctx, g, &n)
}
