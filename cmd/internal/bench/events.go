package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/billing"
	"odometer/ingest/publisher"
)

// workload makes the events of a benchmark. The same number is always the same
// event, so that what is compared gets the same ones and none has to be kept.
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

// sequences are the last ones of a stream's partitions; a partition without
// messages has 0.
type sequences []int64

func (t sequences) note(partition int, seq uint64) { t[partition] = max(t[partition], int64(seq)) }

const (
	fillBatch  = 1000 // events that the stream syncs at once
	fillWriter = 4    // batches under way
)

// fill publishes the events that number names, from 0 up to n, and returns
// where each partition ends.
func (s *stream) fill(ctx context.Context, w *workload, n int, number func(int) int) (sequences, error) {
	pub, err := publisher.New(s.nc)
	if err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	ends := make([]sequences, fillWriter)
	for writer := range fillWriter {
		ends[writer] = make(sequences, s.Partitions)
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
	last := make(sequences, s.Partitions)
	for _, end := range ends {
		for p, seq := range end {
			last.note(p, uint64(seq))
		}
	}
	return last, nil
}

// publishAll publishes a batch and notes the partitions' ends. The stream must
// store each of the events anew.
func publishAll(ctx context.Context, p *publisher.Publisher, events []publisher.Event, end sequences) ([]publisher.Result, error) {
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

const positionsSQL = `
select partition, seq
from stream_positions`

// readPositions reads how far each partition is committed.
func (d *database) readPositions(ctx context.Context, into sequences) error {
	rows, _ := d.Query(ctx, positionsSQL)
	var partition int
	var seq int64
	_, err := pgx.ForEachRow(rows, []any{&partition, &seq}, func() error {
		into[partition] = seq
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the positions: %w", err)
	}
	return nil
}

// How often positions are read, and how long they may stand still.
const (
	pollInterval = 5 * time.Millisecond
	stallLimit   = time.Minute
)

// poll reads until it is done. It fails when what it reads stands still.
func poll(ctx context.Context, what string, read func() (progress int64, done bool, err error)) error {
	var last int64
	for moved := time.Now(); ; {
		progress, done, err := read()
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		case done:
			return nil
		case progress != last:
			last, moved = progress, time.Now()
		case time.Since(moved) > stallLimit:
			return fmt.Errorf("%s: nothing has moved for %s, it stands at %d", what, stallLimit, progress)
		}
		if err := odometer.Sleep(ctx, pollInterval); err != nil {
			return err
		}
	}
}

// waitFor waits until each partition is committed to its last message. (To the
// stream's last, which is another partition's for most, an idle partition moves
// only once a second.)
func (d *database) waitFor(ctx context.Context, last sequences) error {
	seen := make(sequences, len(last))
	return poll(ctx, fmt.Sprintf("wait until the partitions are committed to %v", last), func() (sum int64, done bool, err error) {
		if err := d.readPositions(ctx, seen); err != nil {
			return 0, false, err
		}
		done = true
		for p := range last {
			sum, done = sum+seen[p], done && seen[p] >= last[p]
		}
		return sum, done, nil
	})
}

const countedMessagesSQL = `
select coalesce(sum(messages), 0)
from batches`

// waitForMessages waits until so many are counted.
func (d *database) waitForMessages(ctx context.Context, n int) error {
	return poll(ctx, fmt.Sprintf("wait until %d messages are counted", n), func() (counted int64, done bool, err error) {
		err = d.QueryRow(ctx, countedMessagesSQL).Scan(&counted)
		return counted, counted >= int64(n), err
	})
}

const readPartitionsSQL = `
select count(*) > 0 and count(*) = count(complete_until)
from stream_positions`

// waitUntilRead waits until an aggregator has read every partition to its end
// once: before, the time up to which counts are complete is not known.
func (d *database) waitUntilRead(ctx context.Context) error {
	return poll(ctx, "wait until the stream is read to its end", func() (_ int64, read bool, err error) {
		err = d.QueryRow(ctx, readPartitionsSQL).Scan(&read)
		return 0, read, err
	})
}

const eventBytesSQL = `
select pg_total_relation_size('usage_events')`

// eventBytes is the size of the table of events with its indexes.
func (d *database) eventBytes(ctx context.Context) (size int64, err error) {
	if err := d.QueryRow(ctx, eventBytesSQL).Scan(&size); err != nil {
		return 0, fmt.Errorf("ask for the size of the events: %w", err)
	}
	return size, nil
}

// totals are what a database must hold after a round.
type totals struct {
	events     int
	units      int64
	duplicates int
}

const verifySQL = `
select
    (select count(*) from usage_events),
    (select coalesce(sum(count), 0)::bigint from usage_counters),
    (select coalesce(sum(duplicates), 0) from batches),
    (select count(*) from dead_letters),
    (
        select count(*)
        from (
            select tenant_id, agent, period_start, sum(quantity) as quantity
            from usage_events
            group by tenant_id, agent, period_start
        ) e
        full join usage_counters c using (tenant_id, agent, period_start)
        where coalesce(c.count, 0) <> coalesce(e.quantity, 0)
    )`

// totals reads what is counted, and fails when it contradicts itself.
func (d *database) totals(ctx context.Context) (got totals, err error) {
	var dead, drifted int
	err = d.QueryRow(ctx, verifySQL).Scan(&got.events, &got.units, &got.duplicates, &dead, &drifted)
	if err != nil {
		return got, fmt.Errorf("verify the counts: %w", err)
	}
	if dead != 0 || drifted != 0 {
		return got, fmt.Errorf("WRONG COUNTS: %d dead letters where none is expected, %d counters differ from their events", dead, drifted)
	}
	return got, nil
}

// verify fails when the counts are not as they must be: a round that lost or
// doubled an event has no figures.
func (d *database) verify(ctx context.Context, want totals) error {
	got, err := d.totals(ctx)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("WRONG COUNTS: %d events, %d units, %d duplicates, where %d, %d and %d were published",
			got.events, got.units, got.duplicates, want.events, want.units, want.duplicates)
	}
	return nil
}
