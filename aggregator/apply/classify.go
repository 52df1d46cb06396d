package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/billing"
	"odometer/ingest"
)

// Item is a message and what is known of it.
type Item struct {
	Message *ingest.Message
	Event   odometer.Event      // with a rejection, as far as it could be read
	ID      uuid.UUID           // the event's
	Reject  *odometer.Rejection // why the message cannot be an event, whatever the rules say; nil when it can
	Retry   *RetryInfo          // of a dead letter that is or was retried; nil for a message of the stream
	Period  time.Time           // start of the billing period that takes the event, once it is classified
}

// RetryInfo is what a retried dead letter finds its period by: not its own
// position, where it was no event, but the moment of its retry.
type RetryInfo struct {
	Now         bool       // it is being retried: what is closed is closed
	ClosedUntil *time.Time // it was retried before: the end of its tenant's last period that was closed then
}

// Decode validates a message on its own. Catalogue, age and period are checked
// when its batch is classified.
func Decode(m *ingest.Message) Item {
	i := Item{Message: m}
	if i.Event, i.Reject = ingest.Decode(m); i.Reject == nil {
		i.ID = i.Event.ID()
	}
	return i
}

// Correction reports whether the item may bring a balance below zero. The
// reader counts each such item in a batch of its own: whether it is refused must
// depend on what lies before it in the stream, not on how the stream was cut
// into batches.
func (i *Item) Correction() bool { return i.Reject == nil && i.Event.Quantity < 0 }

// Partition is the partition of the item's tenant. An item whose subject names
// no tenant has none and never counts; it is 0 then.
func (i *Item) Partition(partitions int) int {
	if tenant, ok := odometer.ParseTenant(i.Message.TenantToken); ok {
		return odometer.PartitionOf(tenant, partitions)
	}
	return 0
}

// Batch is a run of one partition's messages and what became of each.
type Batch struct {
	Items        []Item
	RulesVersion int64 // of the rules that they were classified by

	// After classification. Which of the keys are new is for the database to say.
	Events   []*Item // in the order of their keys, those of one key in stream order
	NoPeriod []*Item // valid, but no period takes them: dead, unless they repeat an event
	NotYet   int     // in a dry run: events of a period that is not created yet

	// After Insert. Dead already has those that the rules reject.
	Inserted   []*Item // the new events
	Duplicates int     // repeats of events
	Reread     int     // of them, the very messages that are stored events
	Dead       []DeadLetter
	OverLimit  []OverLimit
}

// DeadLetter is a message that is no event, and why.
type DeadLetter struct {
	Item      *Item
	Rejection odometer.Rejection
}

// OverLimit is a counter that a batch brought beyond its plan's limit.
type OverLimit struct {
	Tenant  uuid.UUID
	Agent   string
	Overage int64 // units beyond the limit
}

// Units is what the batch adds to the counters.
func (b *Batch) Units() (sum int64) {
	for _, i := range b.Inserted {
		sum += i.Event.Quantity
	}
	return sum
}

// classify brings a batch under the rules in force. Where an event belongs to a
// period that does not exist yet, the period is created first.
func (a *Applier) classify(ctx context.Context, items []Item) (*Batch, error) {
	for {
		if err := a.rules.load(ctx, a, items); err != nil {
			return nil, err
		}
		b := &Batch{Items: items, RulesVersion: a.rules.version, Events: make([]*Item, 0, len(items))}
		due, until := a.rules.classify(b)
		if len(due) == 0 || a.DryRun {
			b.sort()
			return b, nil
		}
		if err := billing.RollOver(ctx, a.Pool, slices.Collect(maps.Keys(due)), a.Now(), until); err != nil {
			return nil, err
		}
		a.rules.forget()
	}
}

// classify sorts a batch's messages by what the rules make of them. due are the
// tenants whose next period must be created before that can be done, and until
// the latest time that it is needed for.
func (r *rules) classify(b *Batch) (due map[uuid.UUID]bool, until time.Time) {
	for n := range b.Items {
		i := &b.Items[n]
		if rejection := r.check(i); rejection != nil {
			b.Dead = append(b.Dead, DeadLetter{i, *rejection})
			continue
		}
		tenant := r.tenants[i.Event.Tenant]
		if tenant == nil {
			b.NoPeriod = append(b.NoPeriod, i)
			continue
		}
		period := i.period(tenant.Periods)
		switch occurred := i.Event.OccurredAt; {
		case period != nil:
			i.Period = period.Start
			b.Events = append(b.Events, i)
		case tenant.Due(occurred):
			b.NotYet++
			if due == nil {
				due = map[uuid.UUID]bool{}
			}
			due[i.Event.Tenant] = true
			if occurred.After(until) {
				until = occurred
			}
		default:
			b.NoPeriod = append(b.NoPeriod, i)
		}
	}
	return due, until
}

// check checks the catalogue, then the age: the order of reasons in the contract.
func (r *rules) check(i *Item) *odometer.Rejection {
	if i.Reject != nil {
		return i.Reject
	}
	e := &i.Event
	agent := r.agents[e.Agent]
	switch {
	case agent == nil:
		return &odometer.Rejection{Reason: odometer.UnknownAgent,
			Detail: fmt.Sprintf("agent %q is not in the catalogue", e.Agent)}
	case e.Kind == odometer.Usage && !agent.HasAction(e.Action):
		return &odometer.Rejection{Reason: odometer.UnknownAction,
			Detail: fmt.Sprintf("action_type %q is not an action of agent %s, which takes %s", e.Action, e.Agent, strings.Join(agent.Actions, ", "))}
	}
	return ingest.CheckAge(e)
}

// sort brings the events into the order of the primary key, so that concurrent
// writers lock rows in one order and neighbours share a page. Of one key the
// first in the stream comes first, and so it is the one that is inserted.
func (b *Batch) sort() {
	slices.SortFunc(b.Events, func(x, y *Item) int {
		if c := bytes.Compare(x.Event.Tenant[:], y.Event.Tenant[:]); c != 0 {
			return c
		}
		if c := bytes.Compare(x.ID[:], y.ID[:]); c != 0 {
			return c
		}
		return int(x.Event.Position.Seq - y.Event.Position.Seq)
	})
}

// endOfTime lies after every close.
var endOfTime = odometer.Position{Epoch: math.MaxInt32, Seq: math.MaxInt64}

// period finds the period that takes an item, nil for none.
func (i *Item) period(periods []odometer.Period) *odometer.Period {
	e := &i.Event
	switch {
	case i.Retry == nil:
		return odometer.PeriodFor(periods, e.OccurredAt, e.Position)
	case i.Retry.Now:
		return odometer.PeriodFor(periods, e.OccurredAt, endOfTime)
	default:
		return PeriodForRetried(periods, e.OccurredAt, i.Retry.ClosedUntil)
	}
}

// PeriodForRetried finds the period of an event that comes from a retried dead
// letter, given its retry_closed_until: what had been closed by then could not
// take it, everything later could. The position of the retry cannot replace
// retry_closed_until: while nothing arrives, a close before the retry and one
// after it have the same position.
func PeriodForRetried(periods []odometer.Period, occurredAt time.Time, closedUntil *time.Time) *odometer.Period {
	then := make([]odometer.Period, len(periods))
	for n, p := range periods {
		p.ClosedAt = nil
		if closedUntil != nil && !p.End.After(*closedUntil) {
			p.ClosedAt = &odometer.Position{}
		}
		then[n] = p
	}
	return odometer.PeriodFor(then, occurredAt, endOfTime)
}

// NoPeriod is the dead letter of a message that no period takes.
func (a *Applier) NoPeriod(i *Item) DeadLetter {
	return DeadLetter{i, odometer.Rejection{Reason: odometer.NoBillingPeriod, Detail: a.rules.noPeriodDetail(&i.Event)}}
}

func (r *rules) noPeriodDetail(e *odometer.Event) string {
	tenant := r.tenants[e.Tenant]
	at := e.OccurredAt.Format(time.RFC3339Nano)
	switch {
	case tenant == nil:
		return fmt.Sprintf("tenant %s has no subscription: set one with: odometer subscription set", e.Tenant)
	case len(tenant.Periods) == 0:
		return fmt.Sprintf("occurred_at %s lies in no billing period of the last 90 days", at)
	}
	first, last := tenant.Periods[0], tenant.Periods[len(tenant.Periods)-1]
	for _, p := range tenant.Periods {
		if p.Contains(e.OccurredAt) {
			return fmt.Sprintf("occurred_at %s lies in the closed period [%s, %s) and no later one is open",
				at, p.Start.Format(time.RFC3339), p.End.Format(time.RFC3339))
		}
	}
	return fmt.Sprintf("occurred_at %s lies in no billing period: they run from %s to %s, the subscription is %s",
		at, first.Start.Format(time.RFC3339), last.End.Format(time.RFC3339), tenant.Subscription.Status)
}

// rules are a cache of what one partition's batches are classified by: the
// catalogue, and the subscriptions and periods of the tenants that send. They
// are at least as new as version. If version is still the partition's when a
// batch commits, the rules were those in force; when it has moved, all of them
// are forgotten.
type rules struct {
	loaded  bool
	version int64
	agents  map[string]*odometer.Agent
	tenants map[uuid.UUID]*billing.Tenant // nil: has no subscription
}

// maxTenants bounds the memory for tenants; beyond it, reading them again is
// cheaper than keeping them.
const maxTenants = 100_000

func (r *rules) forget() { r.loaded = false }

// trim forgets the tenants when there are too many, between two batches.
func (r *rules) trim() {
	if len(r.tenants) > maxTenants {
		r.tenants = map[uuid.UUID]*billing.Tenant{}
	}
}

// load makes sure that the rules for all these items are loaded.
func (r *rules) load(ctx context.Context, a *Applier, items []Item) error {
	if !r.loaded {
		if err := r.begin(ctx, a); err != nil {
			return err
		}
	}
	var missing []uuid.UUID
	for n := range items {
		if items[n].Reject != nil {
			continue
		}
		tenant := items[n].Event.Tenant
		if _, ok := r.tenants[tenant]; !ok {
			r.tenants[tenant] = nil
			missing = append(missing, tenant)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	found, err := billing.LoadTenants(ctx, a.Pool, missing, a.Since)
	if err != nil {
		r.forget()
		return err
	}
	for id, tenant := range found {
		r.tenants[id] = tenant
	}
	return nil
}

const rulesVersionSQL = `
select rules_version
from stream_positions
where partition = $1`

// begin reads the version first: what is read after it may be newer, which the
// commit finds out, but never older.
func (r *rules) begin(ctx context.Context, a *Applier) error {
	if err := a.Pool.QueryRow(ctx, rulesVersionSQL, a.Partition).Scan(&r.version); err != nil {
		return fmt.Errorf("read the rules version of partition %d: %w", a.Partition, err)
	}
	catalogue, err := billing.LoadCatalogue(ctx, a.Pool)
	if err != nil && !errors.Is(err, billing.ErrNoCatalogue) {
		return err
	}
	r.loaded = true
	r.tenants = map[uuid.UUID]*billing.Tenant{}
	r.agents = make(map[string]*odometer.Agent, len(catalogue.Agents))
	for n := range catalogue.Agents {
		r.agents[catalogue.Agents[n].ID] = &catalogue.Agents[n]
	}
	return nil
}

// ClosedUntil is the end of a tenant's last closed period, nil for none. The
// tenant must be one of the last batch.
func (a *Applier) ClosedUntil(id uuid.UUID) *time.Time {
	tenant := a.rules.tenants[id]
	if tenant == nil {
		return nil
	}
	var until *time.Time
	for n := range tenant.Periods {
		if tenant.Periods[n].ClosedAt != nil {
			until = &tenant.Periods[n].End
		}
	}
	return until
}
