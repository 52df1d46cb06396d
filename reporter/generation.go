package reporter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/ingest"
)

// mirrorBucket is the NATS key-value bucket that mirrors ledgers outside of
// Postgres, by the ledger's id.
const mirrorBucket = "odometer_ledger"

// mirror is a copy outside of Postgres: how many passes have sent, and after
// the last one, how many units Stripe had accepted in total.
type mirror struct {
	Generation int64     `json:"generation"`
	Units      *int64    `json:"units"` // nil while a pass runs, or when it died
	At         time.Time `json:"at"`
}

// ledgerGeneration is the ledger's generation beside its mirror's.
type ledgerGeneration struct {
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

// loadGeneration reads both.
func (r *Reporter) loadGeneration(ctx context.Context) (*ledgerGeneration, error) {
	g := &ledgerGeneration{}
	if err := r.Pool.QueryRow(ctx, ledgerSQL).Scan(&g.ledger, &g.number, &g.hasSent); err != nil {
		return nil, fmt.Errorf("read the ledger's generation: %w", err)
	}
	bucket, err := r.NATS.KeyValue(ctx, mirrorBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		bucket, err = r.createMirrorBucket(ctx)
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

// createMirrorBucket creates the bucket with the replicas of the stream of usage:
// the loss of one NATS server must not cost the only witness of what was sent.
func (r *Reporter) createMirrorBucket(ctx context.Context) (jetstream.KeyValue, error) {
	replicas := 1
	stream, err := r.NATS.Stream(ctx, ingest.StreamName)
	switch {
	case err == nil:
		replicas = stream.CachedInfo().Config.Replicas
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, err
	}
	return r.NATS.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: mirrorBucket, Description: "Odometer: how many passes have sent, by ledger",
		Storage: jetstream.FileStorage, Replicas: replicas,
	})
}

// checkRestored returns an error when the ledger must not be trusted. A ledger
// one ahead of its mirror is a crash between the two writes.
func (g *ledgerGeneration) checkRestored() error {
	restored := ""
	switch {
	case g.mirror == nil && !g.hasSent:
		return nil
	case g.mirror == nil:
		return fmt.Errorf("%w: its mirror in the NATS bucket %s is gone: compare it with Stripe by: odometer jobs run verify (when Postgres was restored as well, an hour after the last report at the earliest)",
			ErrRestored, mirrorBucket)
	case g.number < g.mirror.Generation:
		restored = "a backup"
	case g.number > g.mirror.Generation+1:
		restored = "NATS"
	default:
		return nil
	}
	return fmt.Errorf("%w: it knows of %d passes, its mirror of %d; %s was restored: compare it with Stripe by: odometer jobs run verify",
		ErrRestored, g.number, g.mirror.Generation, restored)
}

// checkUnits checks the ledger's rows against the mirror before anything is
// reported: a lost row would be reported again.
func (r *Reporter) checkUnits(ctx context.Context, g *ledgerGeneration) error {
	if g.mirror == nil || g.mirror.Units == nil || g.number != g.mirror.Generation {
		return nil // a pass died: its entries say how far it came
	}
	have, err := acceptedUnits(ctx, r.Pool)
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

// raiseGeneration starts a pass that sends: first in Postgres, then in the
// mirror. A number that never reached the mirror was not used for sending, and
// is used now.
func (r *Reporter) raiseGeneration(ctx context.Context, g *ledgerGeneration) error {
	if g.mirror == nil || g.number <= g.mirror.Generation {
		g.number++
	}
	if _, err := r.Pool.Exec(ctx, raiseGenerationSQL, g.number); err != nil {
		return fmt.Errorf("raise the ledger's generation to %d: %w", g.number, err)
	}
	return r.writeMirror(ctx, g, nil)
}

// markSuspect writes a mirror that is ahead of a ledger whose mirror is gone.
// The time of that mirror proves that nothing is sent from then on.
func (r *Reporter) markSuspect(ctx context.Context, g *ledgerGeneration) error {
	ahead := *g
	ahead.number++
	if err := r.writeMirror(ctx, &ahead, nil); err != nil {
		return err
	}
	g.mirror, g.revision = ahead.mirror, ahead.revision
	return nil
}

// writeMirror writes the mirror, unless it has changed since it was read.
func (r *Reporter) writeMirror(ctx context.Context, g *ledgerGeneration, units *int64) error {
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

const acceptedUnitsSQL = `
select coalesce(sum(to_total - from_total), 0)::bigint
from overage_reports
where state in ('accepted', 'verified')
  and origin <> 'invoiced'`

// acceptedUnits is how much Stripe has accepted in total, according to the
// ledger.
func acceptedUnits(ctx context.Context, q querier) (n int64, err error) {
	if err := q.QueryRow(ctx, acceptedUnitsSQL).Scan(&n); err != nil {
		return 0, fmt.Errorf("add up the ledger: %w", err)
	}
	return n, nil
}

// mirrorUnits ends a pass that has sent: the mirror then knows what Stripe has.
func (r *Reporter) mirrorUnits(ctx context.Context, g *ledgerGeneration) error {
	n, err := acceptedUnits(ctx, r.Pool)
	if err != nil {
		return err
	}
	return r.writeMirror(ctx, g, &n)
}
