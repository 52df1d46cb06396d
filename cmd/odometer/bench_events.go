package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/billing"
	"odometer/ingest/publisher"
)

// workload makes the events of a race. The same number is always the same
// event, so that contestants meet the same ones and none has to be kept.
type workload struct {
	seed    uint64
	tenants []uuid.UUID
	agents  []odometer.Agent
	until   time.Time // events occurred in the hour before
}

func newWorkload(tenants int) *workload {
	w := &workload{
		seed:   rand.Uint64(),
		agents: billing.SampleCatalogue().Agents,
		until:  time.Now().UTC().Truncate(time.Microsecond),
	}
	for range tenants {
		w.tenants = append(w.tenants, uuid.New())
	}
	return w
}

// event is the event of a number: of any tenant and agent, under a random key,
// about 330 bytes as JSON.
func (w *workload) event(n int) publisher.Event {
	r := rand.New(rand.NewPCG(w.seed, uint64(n)))
	agent := &w.agents[r.IntN(len(w.agents))]
	return publisher.Event{
		Tenant: w.tenants[r.IntN(len(w.tenants))], Agent: agent.ID, ActionType: agent.Actions[0],
		IdempotencyKey: randomUUID(r).String(),
		Quantity:       w.quantity(n),
		ResourceID:     "mailbox/primary/message/" + randomUUID(r).String(),
		OccurredAt:     w.until.Add(-time.Duration(r.Int64N(int64(time.Hour)))).Truncate(time.Microsecond),
		Metadata: fmt.Appendf(nil, `{"run":"%s","step":%d,"model":"small","tokens":%d,"cached":%t}`,
			randomUUID(r), r.IntN(20), r.IntN(8000), r.IntN(2) == 0),
	}
}

// quantity is the units of an event: 1, 2 or 3.
func (w *workload) quantity(n int) int64 { return int64(1 + n%3) }

// units are those of the events from 0 up to n, without n.
func (w *workload) units(n int) (sum int64) {
	for i := range n {
		sum += w.quantity(i)
	}
	return sum
}

func randomUUID(r *rand.Rand) uuid.UUID {
	var id uuid.UUID
	for i := range id {
		id[i] = byte(r.Uint32())
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

// stored is an event as the aggregator reads it from the stream.
func (w *workload) stored(n int) odometer.Event {
	e := w.event(n)
	return odometer.Event{
		Kind: odometer.Usage, Tenant: e.Tenant, Agent: e.Agent, Key: e.IdempotencyKey, Action: e.ActionType,
		Resource: &e.ResourceID, Quantity: e.Quantity, Metadata: e.Metadata, OccurredAt: e.OccurredAt,
		RecordedAt: w.until, Position: odometer.Position{Epoch: 1, Seq: int64(n + 1)},
	}
}

// repeated lists n events in any order: the given share of them are among the
// first n, each once, and the others have never been seen.
func (w *workload) repeated(n int, share float64) (list []int, fresh int) {
	r := rand.New(rand.NewPCG(w.seed, 0))
	old := int(share * float64(n))
	list = r.Perm(n)[:old]
	for i := range n - old {
		list = append(list, n+i)
	}
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list, n - old
}

// tails are the last sequences of a stream's partitions; a partition without
// messages has 0.
type tails []int64

func (t tails) note(partition int, seq uint64) { t[partition] = max(t[partition], int64(seq)) }

const (
	fillBatch  = 1000 // events that the stream syncs at once
	fillWriter = 4    // batches under way
)

// fill publishes the events that number names, from 0 up to n, and returns
// where each partition ends.
func (s *benchStream) fill(ctx context.Context, w *workload, n int, number func(int) int) (tails, error) {
	pub, err := publisher.New(s.nc)
	if err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	ends := make([]tails, fillWriter)
	for writer := range fillWriter {
		ends[writer] = make(tails, s.Partitions)
		group.Go(func() error {
			for from := writer * fillBatch; from < n; from += fillWriter * fillBatch {
				events := make([]publisher.Event, 0, fillBatch)
				for i := from; i < min(n, from+fillBatch); i++ {
					events = append(events, w.event(number(i)))
				}
				if _, err := publishAll(ctx, pub, events, ends[writer]); err != nil {
					return fmt.Errorf("fill the stream: %w", err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	last := make(tails, s.Partitions)
	for _, end := range ends {
		for p, seq := range end {
			last.note(p, uint64(seq))
		}
	}
	return last, nil
}

// publishAll publishes a batch and notes the partitions' ends. The stream must
// store each of the events anew.
func publishAll(ctx context.Context, p *publisher.Publisher, events []publisher.Event, end tails) ([]publisher.Result, error) {
	results, err := p.PublishBatch(ctx, events)
	if err != nil {
		return nil, err
	}
	for i, r := range results {
		if r.Err != nil {
			return nil, r.Err
		}
		if r.Ack.Duplicate {
			return nil, fmt.Errorf("the stream took key %s for a duplicate", r.Key)
		}
		end.note(odometer.PartitionOf(events[i].Tenant, len(end)), r.Ack.Seq)
	}
	return results, nil
}
