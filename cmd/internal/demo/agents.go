package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/billing"
	"odometer/cmd/internal/cli"
	"odometer/ingest"
	"odometer/ingest/publisher"
)

// agents are simulated agents: mostly they work, sometimes they repeat
// themselves, and now and then they send malformed messages.
type agents struct {
	publisher *publisher.Publisher
	js        jetstream.JetStream
	rate      int
	keys      *runKeys

	mu           sync.Mutex
	acknowledged map[counterKey]int64 // units that the stream has acknowledged, by new keys

	published atomic.Int64 // messages that the stream has acknowledged
}

// counterKey is a counter's key without its period.
type counterKey struct {
	tenant uuid.UUID
	agent  string
}

// runKeys are the idempotency keys of one run. Their common prefix separates the
// agents' own events from those that somebody else publishes meanwhile.
type runKeys struct {
	prefix string
	count  atomic.Int64
}

func newRunKeys() *runKeys { return &runKeys{prefix: "demo-" + uuid.NewString()[:8] + "/"} }

func (k *runKeys) next() string { return fmt.Sprint(k.prefix, k.count.Add(1)) }

// tick is how often an agent wakes up; what is due by then goes as one batch.
const tick = 100 * time.Millisecond

// maxRemembered is how many batches an agent keeps to repeat the oldest, as after
// an answer that got lost: long enough ago for the stream to store it again.
const maxRemembered = 30

func newAgents(nc *nats.Conn, rate int, keys *runKeys) (*agents, error) {
	pub, err := publisher.New(nc)
	if err != nil {
		return nil, err
	}
	return &agents{publisher: pub, js: cli.JetStream(nc), rate: rate, keys: keys, acknowledged: map[counterKey]int64{}}, nil
}

// run lets every agent of every tenant publish until ctx ends. What is under
// way then is finished, so that all that was sent is known.
func (a *agents) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	agents := billing.SampleCatalogue().Agents
	perTick := float64(a.rate) * tick.Seconds() / float64(len(agents)*len(Tenants))
	for _, tenant := range Tenants {
		for _, agent := range agents {
			group.Go(func() error { return a.runOne(ctx, &tenant, agent, perTick) })
		}
	}
	return group.Wait()
}

func (a *agents) runOne(ctx context.Context, tenant *Tenant, agent odometer.Agent, perTick float64) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	due := rand.Float64()
	var sent [][]publisher.Event // the last few batches, oldest first
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		due += perTick
		fresh := newEvents(tenant, agent, a.keys, int(due))
		due -= float64(len(fresh))
		err := a.send(finish, fresh, false)
		if err == nil && len(sent) == maxRemembered && rand.IntN(20) == 0 {
			err = a.send(finish, sent[0], true)
		}
		if err == nil && rand.IntN(50) == 0 {
			err = a.sendMalformed(finish, tenant.ID, agent, fresh)
		}
		cancel()
		if err != nil {
			return err
		}
		if len(fresh) > 0 {
			sent = append(sent[max(0, len(sent)-maxRemembered+1):], fresh)
		}
	}
}

func newEvents(tenant *Tenant, agent odometer.Agent, keys *runKeys, n int) []publisher.Event {
	events := make([]publisher.Event, n)
	for i := range events {
		events[i] = publisher.Event{
			Tenant: tenant.ID, Agent: agent.ID, ActionType: agent.Actions[0],
			IdempotencyKey: keys.next(), Quantity: 1,
			OccurredAt: tenant.occurrence(time.Now()), Metadata: []byte(`{"model":"small","run":"demo"}`),
		}
	}
	return events
}

// send publishes events and notes what the stream has acknowledged.
func (a *agents) send(ctx context.Context, events []publisher.Event, again bool) error {
	results, err := a.publisher.PublishBatch(ctx, events)
	if err != nil {
		return fmt.Errorf("agents publish: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, r := range results {
		if r.Err != nil {
			return fmt.Errorf("agents publish: %w", r.Err)
		}
		if !r.Ack.Duplicate {
			a.published.Add(1)
		}
		if !again {
			a.acknowledged[counterKey{events[i].Tenant, events[i].Agent}] += events[i].Quantity
		}
	}
	return nil
}

// sendMalformed is what faulty agents send: it bypasses the checks of the publisher.
func (a *agents) sendMalformed(ctx context.Context, tenant uuid.UUID, agent odometer.Agent, fresh []publisher.Event) error {
	key, action := uuid.NewString(), agent.Actions[0]
	payloads := []string{
		`{"idempotency_key":`,
		fmt.Sprintf(`{"idempotency_key":"%s","action_type":"%s","quantity":-1}`, key, action),
		fmt.Sprintf(`{"idempotency_key":"%s","action_type":"make_coffee"}`, key),
		fmt.Sprintf(`{"idempotency_key":"%s","action_type":"%s","occurred_at":"2001-01-01T00:00:00Z"}`, key, action),
		fmt.Sprintf(`{"idempotency_key":"%s","action_type":"%s","resource_id":"\u0000"}`, key, action),
	}
	payload := payloads[rand.IntN(len(payloads))]
	switch chosen := rand.IntN(7); {
	case chosen == 0:
		tenant, payload = UnsubscribedTenant, fmt.Sprintf(`{"idempotency_key":"%s","action_type":"%s"}`, key, action)
	case chosen == 1 && len(fresh) > 0:
		payload = fmt.Sprintf(`{"idempotency_key":"%s","action_type":"%s","quantity":7}`, fresh[0].IdempotencyKey, action)
	}
	subject := ingest.Subject(odometer.Usage, tenant, agent.ID)
	_, err := a.js.Publish(ctx, subject, []byte(payload), jetstream.WithMsgID(publisher.MessageID(subject, []byte(payload))))
	if err != nil {
		return fmt.Errorf("agents publish a malformed message: %w", err)
	}
	a.published.Add(1)
	return nil
}
