package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/billing"
	"odometer/cmd/internal/cli"
	"odometer/ingest/publisher"
)

type adjustCmd struct {
	cli.DatabaseSettings
	cli.NATSSettings
	cli.StreamSettings
	Tenant     cli.Tenant    `required:"" help:"The tenant's UUID." placeholder:"UUID"`
	Agent      string        `required:"" help:"The agent's id." placeholder:"ID"`
	Quantity   units         `required:"" help:"Units to add, or with a minus to take away." placeholder:"±N"`
	Reason     string        `required:"" help:"Why; it is kept with the correction." placeholder:"TEXT"`
	Key        *string       `help:"The idempotency key; a new one when not given. Of a key that is used again the correction counts once." placeholder:"KEY"`
	OccurredAt *time.Time    `help:"The time that is corrected, which says the billing period; now when not given." placeholder:"TIME"`
	Wait       time.Duration `help:"How long to wait until it is counted." default:"10s"`
	JSON       bool          `help:"Print JSON."`
}

// units may be negative, which a flag's value otherwise cannot begin with.
type units int64

// Decode takes the next argument as it is.
func (u *units) Decode(ctx *kong.DecodeContext) error {
	text := fmt.Sprint(ctx.Scan.Pop().Value)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n == 0 || n < -odometer.MaxQuantity || n > odometer.MaxQuantity {
		return fmt.Errorf("%q: want a whole number from -%d to %d, not 0", text, odometer.MaxQuantity, odometer.MaxQuantity)
	}
	*u = units(n)
	return nil
}

// maxReasonBytes keeps the correction's metadata below its limit.
const maxReasonBytes = 4 << 10

func (c *adjustCmd) check() error {
	switch {
	case !odometer.ValidAgent(c.Agent):
		return cli.Usagef("--agent %q: want a lower-case letter, then up to 31 of a-z, 0-9, _ and -", c.Agent)
	case strings.TrimSpace(c.Reason) == "":
		return cli.Usagef("--reason is empty: say why, it is kept with the correction")
	case len(c.Reason) > maxReasonBytes:
		return cli.Usagef("--reason has %d bytes: want at most %d", len(c.Reason), maxReasonBytes)
	case c.Key != nil && *c.Key == "":
		return cli.Usagef("--key is empty: give a key, or leave the flag out for a new one")
	case c.Wait <= 0:
		return cli.Usagef("--wait %s: want more than 0", c.Wait)
	}
	return nil
}

// Run publishes a correction and waits until it is counted or refused.
func (c *adjustCmd) Run(ctx context.Context, t *cli.Terminal) error {
	if err := c.check(); err != nil {
		return err
	}
	config, err := c.StreamConfig()
	if err != nil {
		return err
	}
	e, err := c.event()
	if err != nil {
		return err
	}
	pool, err := c.OpenMigrated(ctx, cli.FewConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	nc, pub, err := openPublisher(ctx, &c.NATSSettings, "adjust", config)
	if err != nil {
		return err
	}
	defer nc.Close()
	ack, err := publishOne(ctx, pub, "correction", e)
	if err != nil {
		return err
	}
	became, err := c.await(ctx, pool, e, ack)
	if err != nil {
		return err
	}
	return c.say(t, e, became)
}

// event is the correction that the flags describe.
func (c *adjustCmd) event() (publisher.Event, error) {
	metadata, err := json.Marshal(map[string]string{"reason": strings.TrimSpace(c.Reason), "by": cli.Operator()})
	if err != nil {
		return publisher.Event{}, cli.Usagef("--reason: %w", err)
	}
	return publisher.Event{
		Adjustment: true, Tenant: uuid.UUID(c.Tenant), Agent: c.Agent,
		IdempotencyKey: cli.ValueOr(c.Key, uuid.NewString()), Quantity: int64(c.Quantity), Metadata: metadata,
		OccurredAt: cli.ValueOr(c.OccurredAt, time.Time{}),
	}, nil
}

// correction is the outcome of a correction.
type correction struct {
	Key         string     `json:"idempotency_key"`
	Seq         uint64     `json:"stream_seq"`
	State       string     `json:"state"` // counted, duplicate or refused
	Before      *int64     `json:"before,omitempty"`
	After       *int64     `json:"after,omitempty"`
	PeriodStart *time.Time `json:"period_start,omitempty"`
	Reason      string     `json:"reason,omitempty"` // of the refusal
	Detail      string     `json:"detail,omitempty"`
	ID          string     `json:"dead_letter,omitempty"` // that a refused one is kept as
}

// await polls until the correction's partition is read through it.
func (c *adjustCmd) await(ctx context.Context, pool *pgxpool.Pool, e publisher.Event, ack publisher.Ack) (*correction, error) {
	deadline := time.Now().Add(c.Wait)
	for {
		became, through, err := outcomeOf(ctx, pool, e, ack)
		if err != nil || became != nil {
			return became, err
		}
		if time.Now().After(deadline) {
			return nil, cli.Unreachable{Err: fmt.Errorf("the correction is stored at sequence %d and not counted yet after %s; its partition is read through %d: check that odometer run aggregator runs and that no replay is under way, then repeat the command with --key %s, which is safe",
				ack.Seq, c.Wait, through, e.IdempotencyKey)}
		}
		if err := odometer.Sleep(ctx, 20*time.Millisecond); err != nil {
			return nil, fmt.Errorf("interrupted: the correction is stored at sequence %d and will be counted; see what became of it with --key %s", ack.Seq, e.IdempotencyKey)
		}
	}
}

const readThroughSQL = `
select stream_epoch, seq
from stream_positions
where partition = $1`

const refusedSQL = `
select reason, detail
from dead_letters
where stream_epoch = $1
  and stream_seq = $2
  and tenant_id = $3
  and state = 'open'`

const correctionSQL = `
select e.stream_epoch = $3 and e.stream_seq = $4, e.period_start, c.count, c.count - e.quantity
from usage_events e
join usage_counters c using (tenant_id, agent, period_start)
where e.tenant_id = $1
  and e.event_id = $2`

// outcomeOf reads in one snapshot what became of the correction; nil while its
// partition is read only through an earlier message.
func outcomeOf(ctx context.Context, pool *pgxpool.Pool, e publisher.Event, ack publisher.Ack) (became *correction, through int64, err error) {
	partitions, err := billing.Partitions(ctx, pool)
	if err != nil || partitions == 0 {
		return nil, 0, err
	}
	err = pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var epoch int32
		if err := tx.QueryRow(ctx, readThroughSQL, odometer.PartitionOf(e.Tenant, partitions)).Scan(&epoch, &through); err != nil {
			return fmt.Errorf("read the position of the partition: %w", err)
		}
		if through < int64(ack.Seq) {
			return nil
		}
		became, err = outcome(ctx, tx, e, ack, odometer.Position{Epoch: epoch, Seq: int64(ack.Seq)})
		return err
	})
	return became, through, err
}

// outcome is what became of a correction that was read.
func outcome(ctx context.Context, tx pgx.Tx, e publisher.Event, ack publisher.Ack, at odometer.Position) (*correction, error) {
	became := &correction{Key: e.IdempotencyKey, Seq: ack.Seq}
	err := tx.QueryRow(ctx, refusedSQL, at.Epoch, at.Seq, e.Tenant).Scan(&became.Reason, &became.Detail)
	if err == nil {
		became.State, became.ID = "refused", fmt.Sprintf("%d-%d", at.Epoch, at.Seq)
		return became, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("read the dead letters: %w", err)
	}
	identity := odometer.Event{Kind: odometer.Adjustment, Tenant: e.Tenant, Key: e.IdempotencyKey}
	var first bool
	err = tx.QueryRow(ctx, correctionSQL, e.Tenant, identity.ID(), at.Epoch, at.Seq).Scan(&first, &became.PeriodStart, &became.After, &became.Before)
	if err != nil {
		return nil, fmt.Errorf("read the correction at sequence %d: %w: its message was read, but neither an event nor a dead letter is stored: see: odometer deadletters list --tenant %s", at.Seq, err, e.Tenant)
	}
	became.State = "counted"
	if !first || ack.Duplicate {
		became.State, became.Before = "duplicate", became.After
	}
	became.PeriodStart = cli.StoredOrNil(became.PeriodStart)
	return became, nil
}

func (c *adjustCmd) say(t *cli.Terminal, e publisher.Event, became *correction) error {
	if c.JSON {
		err := t.JSON(became)
		if err == nil && became.State == "refused" {
			err = cli.ErrFindings
		}
		return err
	}
	switch became.State {
	case "refused":
		return fmt.Errorf("the correction is refused: %s: %s: nothing was counted; its message is kept as dead letter %s%s",
			became.Reason, became.Detail, became.ID, countsLater(became))
	case "duplicate":
		fmt.Fprintf(t.Out, "key %s was counted before: nothing has changed, %s/%s is %d in the period from %s\n",
			became.Key, e.Tenant, e.Agent, *became.After, became.PeriodStart.Format(time.RFC3339))
	default:
		fmt.Fprintf(t.Out, "key %s sequence %d: %s/%s was %d, is %d in the period from %s\n",
			became.Key, became.Seq, e.Tenant, e.Agent, *became.Before, *became.After, became.PeriodStart.Format(time.RFC3339))
	}
	return nil
}

// countsLater warns when the dead letter is retried automatically: a second
// correction would then count twice.
func countsLater(became *correction) string {
	switch became.Reason {
	case string(odometer.NoBillingPeriod), string(odometer.UnknownAgent), string(odometer.UnknownAction):
		return fmt.Sprintf(", and counts by itself once what it lacks has come: do not send it again, or only with --key %s; to withdraw it: odometer deadletters discard %s --why TEXT",
			became.Key, became.ID)
	}
	return ""
}
