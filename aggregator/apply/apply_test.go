package apply

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"odometer"
	"odometer/billing"
	"odometer/ingest"
	"odometer/internal/testenv"
)

// newApplier is an applier of the partition of a tenant with a subscription.
func newApplier(t *testing.T) (*Applier, *testenv.Database, uuid.UUID) {
	t.Helper()
	db := testenv.NewDatabase(t)
	db.SetPositions(4, 0, time.Now())
	tenant := db.Subscribe(1)[0]
	return &Applier{Pool: db.Pool, Partition: odometer.PartitionOf(tenant, 4), Now: time.Now}, db, tenant
}

// read is the message of a tenant at a sequence, with some units.
func read(tenant uuid.UUID, seq int64, key, action string, quantity int64) Item {
	return Decode(&ingest.Message{
		Kind: odometer.Usage, TenantToken: tenant.String(), AgentToken: "inbox",
		StoredAt: time.Now().UTC(), Position: odometer.Position{Epoch: 1, Seq: seq},
		Data: fmt.Appendf(nil, `{"idempotency_key":%q,"action_type":%q,"quantity":%d}`, key, action, quantity),
	})
}

// One message that Postgres refuses becomes a dead letter, and only it.
func TestApplyHalvesRefusedBatch(t *testing.T) {
	t.Parallel()
	a, _, tenant := newApplier(t)
	var items []Item
	for seq := range int64(9) {
		items = append(items, read(tenant, seq+1, fmt.Sprint(seq), "email_processed", seq+1))
	}
	var written []int64
	var dead []DeadLetter
	err := a.Apply(t.Context(), items, func(_ context.Context, b *Batch) error {
		for _, i := range b.Events {
			if i.Event.Quantity == 6 {
				return fmt.Errorf("insert: %w", &pgconn.PgError{Code: "23514", Message: "no sixes"})
			}
		}
		for n := range b.Items {
			written = append(written, b.Items[n].Event.Position.Seq)
		}
		dead = append(dead, b.Dead...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(written); got != "[1 2 3 4 5 6 7 8 9]" {
		t.Errorf("written in the order %s", got)
	}
	if len(dead) != 1 || dead[0].Item.Event.Quantity != 6 || dead[0].Rejection.Reason != odometer.Malformed {
		t.Errorf("dead letters: %+v", dead)
	}
}

// A refusal under rules that have changed since decides nothing: the message is
// classified again by the new ones.
func TestApplyClassifiesAgainWhenRulesChange(t *testing.T) {
	t.Parallel()
	a, db, tenant := newApplier(t)
	calls := 0
	var events []int
	err := a.Apply(t.Context(), []Item{read(tenant, 1, "a", "email_replied", 1)}, func(ctx context.Context, b *Batch) error {
		events = append(events, len(b.Events))
		switch calls++; calls {
		case 1:
			c := billing.SampleCatalogue()
			c.Agents[0].Actions = append(c.Agents[0].Actions, "email_replied")
			if err := billing.ApplyCatalogue(ctx, db.Pool, c); err != nil {
				return err
			}
			return ErrRulesChanged
		case 2:
			return &pgconn.PgError{Code: "22000"}
		case 3:
			return ErrRulesChanged
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(events); got != "[0 1 0 1]" { // unknown action, event, refused, event
		t.Errorf("events of each try: %s", got)
	}
}

// What a message becomes depends on the owner of its key.
func TestInsertComparesWithKeyOwner(t *testing.T) {
	t.Parallel()
	a, db, tenant := newApplier(t)
	first := read(tenant, 1, "key", "email_processed", 2)
	for n, step := range []struct {
		item                               Item
		inserted, duplicates, reread, dead int
	}{
		{first, 1, 0, 0, 0},
		{first, 0, 1, 1, 0},
		{read(tenant, 2, "key", "email_processed", 2), 0, 1, 0, 0},
		{read(tenant, 3, "key", "email_processed", 3), 0, 0, 0, 1},
		{read(tenant, 4, "other key", "email_processed", 3), 1, 0, 0, 0},
	} {
		err := a.Apply(t.Context(), []Item{step.item}, func(ctx context.Context, b *Batch) error {
			conn, err := db.Pool.Acquire(ctx)
			if err != nil {
				return err
			}
			defer conn.Release()
			err = a.WithLock(ctx, conn.Conn(), b, func(tx pgx.Tx, stay Advance) error {
				return a.Insert(ctx, tx.Conn(), &pgx.Batch{}, b, stay)
			})
			if len(b.Inserted) != step.inserted || b.Duplicates != step.duplicates || b.Reread != step.reread || len(b.Dead) != step.dead {
				t.Errorf("message %d: %d inserted, %d duplicates, %d read again, dead %v", n, len(b.Inserted), b.Duplicates, b.Reread, b.Dead)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := db.Count(tenant, "inbox"); n != 5 {
		t.Errorf("counted %d, want 5", n)
	}
	db.CheckCounters()
}
