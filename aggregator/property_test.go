package aggregator

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/billing"
	"odometer/ingest"
	"odometer/internal/soak"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0: another one each time")

// randomly gives a test its random numbers and says how to repeat them.
func randomly(t testing.TB) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat with: go test ./aggregator -run '%s' -seed %d", t.Name(), seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// generator makes streams of messages about a handful of tenants.
type generator struct {
	*rand.Rand
	tenants []uuid.UUID // see createPeriods
	marks   []time.Time // times at which something changes, and some between
	earlier []testMessage
}

// The tenants of a generated stream, by index.
const (
	rolling     = iota // three periods, the last one running
	closedOnce         // the first period closed in the midst of the stream
	closedTwice        // the second too
	canceled           // its only period is over
	closedAway         // over, and closed in the midst of the stream
	withGap            // two periods with nothing between
	unsubscribed
	tenantKinds
)

// createPeriods gives each of the stream's tenants its periods. The stream will begin
// behind base.
func (g *generator) createPeriods(h *testEnv, m *model, name string, base int64) {
	h.T.Helper()
	now := time.Now().UTC().Truncate(time.Microsecond)
	day := func(n int) time.Time { return now.AddDate(0, 0, n) }
	for n := range tenantKinds {
		g.tenants = append(g.tenants, uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%s %d", name, n)))
	}
	set := func(n int, status odometer.Status, start, end time.Time) {
		_, err := billing.Set(h.T.Context(), h.Pool, billing.SubscriptionChange{
			Tenant: g.tenants[n], PlanID: "price_bundle_monthly", Status: status, Interval: odometer.Monthly, Start: start, End: end,
		}, now)
		if err != nil {
			h.T.Fatal(err)
		}
	}
	set(rolling, odometer.Active, day(-70), day(-45))
	set(closedOnce, odometer.Active, day(-70), day(-45))
	set(closedTwice, odometer.PastDue, day(-70), day(-45))
	set(canceled, odometer.Canceled, day(-60), day(-5))
	set(closedAway, odometer.Canceled, day(-60), day(-5))
	set(withGap, odometer.Active, day(-20), day(25))
	_, err := h.Pool.Exec(h.T.Context(), `
		insert into billing_periods (tenant_id, period_start, period_end, plan_id, frozen_at)
		values ($1, $2, $3, 'price_bundle_monthly', now())`, g.tenants[withGap], day(-60), day(-40))
	if err != nil {
		h.T.Fatal(err)
	}
	m.know(h, g.tenants...)
	within := func() odometer.Position { return odometer.Position{Epoch: 1, Seq: base + 1 + g.Int64N(70)} }
	h.ClosePeriod(g.tenants[closedOnce], day(-70), within())
	h.ClosePeriod(g.tenants[closedTwice], day(-70), within())
	h.ClosePeriod(g.tenants[closedTwice], m.periods[g.tenants[closedTwice]][1].start, within())
	h.ClosePeriod(g.tenants[closedAway], day(-60), within())
	m.know(h, g.tenants...)
	g.marks = []time.Time{{}, {}, {}, {}, day(-1), day(-15), day(-30), day(-50), day(-65), day(-80), now.Add(4 * time.Minute)}
	for _, periods := range m.periods {
		for _, p := range periods {
			for _, edge := range []time.Time{p.start, p.end} {
				if edge.After(day(-85)) && edge.Before(now) {
					g.marks = append(g.marks, edge, edge.Add(-time.Microsecond))
				}
			}
		}
	}
}

// stream is n messages of all kinds.
func (g *generator) stream(n int) []testMessage {
	var all []testMessage
	for len(all) < n {
		s := g.message()
		all = append(all, s)
		g.earlier = append(g.earlier, s)
	}
	return all
}

func (g *generator) message() testMessage {
	switch n := g.IntN(100); {
	case n < 25 && len(g.earlier) > 0: // the very same again
		return pick(g.Rand, g.earlier...)
	case n < 40 && len(g.earlier) > 0:
		return g.alike(pick(g.Rand, g.earlier...))
	case n < 50:
		return g.flawed()
	case n < 66:
		s := correction(g.tenant(), g.key(), g.Int64N(120)-80)
		s.agent = pick(g.Rand, "inbox", "invoice")
		if s.quantity == 0 {
			s.quantity = -1
		}
		s.occurred = pick(g.Rand, g.marks...)
		return s.encode()
	case n < 75:
		return g.usage().encodeCloud()
	default:
		return g.usage().encode(g.extras()...)
	}
}

// tenant is mostly one that can take events.
func (g *generator) tenant() uuid.UUID {
	if g.IntN(2) == 0 {
		return g.tenants[g.IntN(closedTwice+1)]
	}
	return pick(g.Rand, g.tenants...)
}

// key is from a namespace so small that unrelated messages share keys.
func (g *generator) key() string { return fmt.Sprintf("key %d", g.IntN(40)) }

func (g *generator) usage() testMessage {
	s := usage(g.tenant(), g.key(), pick[int64](g.Rand, 1, 1, 2, 30))
	if g.IntN(4) == 0 {
		s.agent, s.action = "invoice", "invoice_detected"
	}
	s.resource = pick(g.Rand, "", "", "r1", "r2")
	s.occurred = pick(g.Rand, g.marks...)
	return s
}

// extras are members that change nothing of what an event is.
func (g *generator) extras() []string {
	return pick(g.Rand, nil, nil,
		[]string{`"metadata":{"a":[1,2.5e3,{"b":null}],"ü":"é"}`},
		[]string{`"unknown":{"x":[[]]}`, `"IDEMPOTENCY_KEY":7`, `"metadata":null`},
	)
}

// alike is a valid earlier message in another form, or with one thing changed.
func (g *generator) alike(s testMessage) testMessage {
	if s.flaw != "" || s.header != nil {
		return s
	}
	switch g.IntN(6) {
	case 0:
		s.quantity++
		if s.quantity == 0 {
			s.quantity = 1
		}
	case 1:
		s.resource += "x"
	case 2:
		s.occurred = pick(g.Rand, g.marks...) // not one of the four that must be equal
	case 3:
		if s.kind == odometer.Usage {
			return s.encodeCloud()
		}
	case 4:
		s.tenant = pick(g.Rand, g.tenants...) // the same key of another tenant
	}
	return s.encode(g.extras()...)
}

// flawed is a message that cannot be an event, often for several reasons, of
// which the first in the contract's order counts.
func (g *generator) flawed() testMessage {
	s := g.usage()
	now := time.Now()
	switch g.IntN(8) {
	case 0:
		s = s.encode()
		s.flaw = odometer.Malformed
		s.payload = pick(g.Rand, "", "null", "[]", "[{}]", `"text"`, s.payload+"x", s.payload+s.payload, s.payload[:len(s.payload)-1],
			"\ufeff"+s.payload, `{"idempotency_key":"a","idempotency_key":"a","action_type":"email_processed"}`,
			`{"a":"\u0000"}`, `{"a":"\ud800"}`, "{\"a\":\"\xff\"}", "{\"a\":\"\x00\"}", `{"metadata":{"x":1,"x":1}}`,
			`{"pad":"`+strings.Repeat("x", odometer.MaxPayloadBytes)+`"}`)
	case 1, 2:
		s.flaw = odometer.InvalidField
		member := pick(g.Rand, `"quantity":0`, `"quantity":-1`, `"quantity":5.0`, `"quantity":"5"`, `"quantity":1e3`, `"quantity":1000000001`,
			`"quantity":99999999999999999999`, `"occurred_at":"yesterday"`, `"occurred_at":1700000000`, `"metadata":[]`, `"metadata":{"x":1e400000}`,
			`"metadata":`+strings.Repeat(`{"a":`, 33)+"1"+strings.Repeat("}", 33), `"metadata":{"x":"`+strings.Repeat("y", odometer.MaxMetadataBytes)+`"}`,
			`"tenant_id":7`, `"agent":false,"tenant_id":"`+tenantOf(9).String()+`"`)
		s.quantity, s.occurred = 1, time.Time{} // else the member comes twice
		s = s.encode(member)
		if g.IntN(5) == 0 {
			s.payload = pick(g.Rand, `{}`, `{"idempotency_key":"","action_type":"email_processed"}`, `{"idempotency_key":null,"action_type":"email_processed"}`,
				`{"idempotency_key":"a\nb","action_type":"email_processed"}`, `{"idempotency_key":"a"}`, `{"Idempotency_key":"a","action_type":"email_processed"}`)
		}
	case 3:
		s.flaw = odometer.InvalidField
		s = s.encode()
		s.subject = pick(g.Rand, "usage."+strings.ToUpper(s.tenant.String())+".inbox", "usage.nobody.inbox", "usage.\xff\xfe.inbox",
			"adjust."+s.tenant.String()+".Inbox", "usage."+s.tenant.String()+"."+strings.Repeat("a", 33))
	case 4:
		s.flaw = odometer.SubjectMismatch
		s.agent = pick(g.Rand, "inbox", "nobody") // mismatch goes before unknown_agent
		s = s.encode(pick(g.Rand, `"tenant_id":"`+tenantOf(9).String()+`"`, `"agent":"meeting"`))
	case 5:
		s.flaw = odometer.UnknownAgent
		s.agent = "nobody"
		s.occurred = pick(g.Rand, s.occurred, now.AddDate(0, 0, -91)) // goes before too_old
		s = s.encode()
	case 6:
		s.flaw = odometer.UnknownAction
		s.action = pick(g.Rand, "nothing", "invoice_detected", odometer.AdjustmentAction)
		s.agent = "inbox"
		s = s.encode()
		if g.IntN(3) == 0 {
			s = s.encodeCloud()
		}
	case 7:
		s.flaw, s.occurred = odometer.TooOld, now.AddDate(0, 0, -91)
		if g.IntN(2) == 0 {
			s.flaw, s.occurred = odometer.InFuture, now.Add(6*time.Minute)
		}
		s = s.encode()
	}
	return s
}

// A reading of the property test: from where, and in batches of what size.
type reading struct {
	size  int
	pause bool // stop in the middle and go on with another size
}

func (g *generator) reading() reading {
	return reading{size: pick(g.Rand, 1, 2, 7, DefaultBatchSize), pause: g.IntN(3) == 0}
}

// read aggregates until each partition is read through its last message.
func (h *testEnv) read(r reading, ends map[int]int64) {
	h.T.Helper()
	through := func(short int64) func() bool {
		return func() bool {
			for p, end := range ends {
				if h.Number(`select count(*) from stream_positions where partition = $1 and seq >= $2`, p, end-short) == 0 {
					return false
				}
			}
			return true
		}
	}
	if r.pause {
		stop := h.run(func(o *Options) { o.BatchSize = r.size })
		h.Eventually("read for a while", through(40))
		stop()
		r.size = 8 - min(r.size, 7)
	}
	stop := h.run(func(o *Options) { o.BatchSize = r.size })
	h.Eventually(fmt.Sprintf("read through %v", ends), through(0))
	stop()
}

// putBack moves positions back and returns them: behind base, or
// to the end of any batch.
func (g *generator) putBack(h *testEnv, base int64, partitions int) map[int]int64 {
	h.T.Helper()
	positions := map[int]int64{}
	for p := range partitions {
		positions[p] = base
		if g.IntN(2) == 0 {
			positions[p] = h.Number(`
				select coalesce((select to_seq from batches where partition = $1 and to_seq >= $2 order by hashint8(batch_id + $3) limit 1), $2)`,
				p, base, g.Int64N(1<<40))
		}
		_, err := h.Pool.Exec(h.T.Context(), `
			update stream_positions set seq = $2, stored_at = (
				select last_stored_at from batches where partition = $1 and to_seq = $2 limit 1)
			where partition = $1`, p, positions[p])
		if err != nil {
			h.T.Fatal(err)
		}
	}
	return positions
}

// Whatever way a stream is read, in whatever batches, once or again from any
// position, and with whatever repeated in it, the tables hold what the contract says
// of it.
func TestAnyReadingOfStreamCountsTheSame(t *testing.T) {
	t.Parallel()
	const messages = 80
	for _, part := range []struct{ partitions, streams int }{{1, soak.Rounds(t, 3, 10)}, {4, soak.Rounds(t, 2, 6)}} {
		t.Run(fmt.Sprintf("%d partitions", part.partitions), func(t *testing.T) {
			t.Parallel()
			r := randomly(t)
			h := newEnvFor(t, ingest.StreamConfig{Partitions: part.partitions})
			h.attach()
			m := newModel()
			for n := range part.streams {
				base := h.LastSeq()
				g := &generator{Rand: r}
				g.createPeriods(h, m, fmt.Sprintf("%s %d", t.Name(), n), base)
				all := g.stream(messages)
				last := h.publishModelled(m, 1, all)
				ends := map[int]int64{}
				for i, s := range all {
					ends[s.partition(part.partitions)] = last - int64(len(all)-1-i)
				}
				h.readAndCompare(m, g.reading(), ends, base, nil)
				for range 2 {
					h.readAndCompare(m, g.reading(), ends, base, g.putBack(h, base, part.partitions))
				}
				if t.Failed() {
					t.Fatalf("in stream %d, which begins behind %d", n, base)
				}
			}
			t.Logf("the streams made %v", m.tally)
			// From the very beginning, everything at once.
			g := &generator{Rand: r}
			ends := map[int]int64{}
			for p := range part.partitions {
				ends[p] = h.Number(`select seq from stream_positions where partition = $1`, p)
			}
			if _, err := h.Pool.Exec(t.Context(), `update stream_positions set seq = 0, stored_at = null`); err != nil {
				t.Fatal(err)
			}
			h.read(reading{size: pick(g.Rand, 7, DefaultBatchSize)}, ends)
			h.agree(m, odometer.Position{})
			h.CheckCounters()
		})
	}
}

// readAndCompare reads from where the positions stand, and compares what the
// batches say of it. from are positions that were put back; nil is a first
// reading.
func (h *testEnv) readAndCompare(m *model, r reading, ends map[int]int64, base int64, from map[int]int64) {
	h.T.Helper()
	before := h.Number(`select coalesce(max(batch_id), 0) from batches`)
	h.read(r, ends)
	h.agree(m, odometer.Position{Epoch: 1, Seq: base})
	if from != nil {
		if n := h.Number(`select coalesce(sum(events), 0)::bigint from batches where batch_id > $1`, before); n != 0 {
			h.T.Errorf("read again from %v: %d events are new", from, n)
		}
		return
	}
	want := map[string]int64{}
	for at, what := range m.outcomes {
		if at.Seq > base {
			want[strings.Fields(what)[0]]++
		}
	}
	for column, outcome := range map[string]string{"events": "event", "duplicates": "duplicate", "dead": "dead"} {
		if n := h.Number(`select coalesce(sum(`+column+`), 0)::bigint from batches where batch_id > $1`, before); n != want[outcome] {
			h.T.Errorf("the batches say %d %s, want %d", n, column, want[outcome])
		}
	}
}

// dealt is the partition by the subject's token, whatever it is.
func (s *testMessage) partition(partitions int) int {
	token := strings.Split(s.subject, ".")[1]
	hash := uint32(2166136261)
	for _, c := range []byte(token) {
		hash = (hash ^ uint32(c)) * 16777619
	}
	return int(hash % uint32(partitions))
}
