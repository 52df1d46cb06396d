package demo

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/cmd/internal/cli"
	"odometer/migrations/pgtest"
)

// checkEnv is the data of one of the demo's tenants after its agents have
// noted what was acknowledged.
type checkEnv struct {
	t            *testing.T
	demo         *demo
	printed      bytes.Buffer
	before       map[counterKey]counterUnits
	acknowledged map[counterKey]int64
}

func newCheckEnv(t *testing.T) *checkEnv {
	t.Helper()
	b := &checkEnv{t: t, acknowledged: map[counterKey]int64{{Tenants[0].ID, "inbox"}: 3}}
	b.demo = &demo{terminal: cli.NewTerminal(&b.printed, t.Output(), "text", "warn"), pool: openPool(t), keys: newRunKeys()}
	b.exec(`insert into usage_counters (tenant_id, agent, period_start, period_end, count) values ($1, 'inbox', '2026-11-01Z', '2026-12-01Z', 0)`, Tenants[0].ID)
	b.store("an earlier run's", "usage", 5)
	var err error
	if b.before, err = loadCounts(t.Context(), b.demo.pool, b.demo.keys); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b.store(b.demo.keys.next(), "usage", 1)
	}
	return b
}

func (b *checkEnv) exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.demo.pool.Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatal(err)
	}
}

// store stores an event and counts it.
func (b *checkEnv) store(key, kind string, quantity int) {
	b.t.Helper()
	b.exec(`insert into usage_events (tenant_id, event_id, kind, agent, action_type, quantity, idempotency_key, occurred_at, recorded_at, period_start, stream_epoch, stream_seq)
		values ($1, $2, $3, 'inbox', 'email_processed', $4, $5, now(), now(), '2026-11-01Z', 1, 1)`, Tenants[0].ID, uuid.New(), kind, quantity, key)
	b.exec(`update usage_counters set count = count + $1`, quantity)
}

// check is what the check prints and finds.
func (b *checkEnv) check() (text string, finding error) {
	b.t.Helper()
	found, others, err := b.demo.compareAcknowledged(b.t.Context(), b.acknowledged, b.before)
	if err != nil {
		b.t.Fatal(err)
	}
	b.printed.Reset()
	finding = b.demo.printComparisons(found, others)
	return b.printed.String(), finding
}

func TestEventsOfOtherPublishersAreShownApart(t *testing.T) {
	t.Parallel()
	b := newCheckEnv(t)
	if said, finding := b.check(); finding != nil || strings.Contains(said, "others") {
		t.Errorf("nobody else published: %v\n%s", finding, said)
	}
	b.store("another publisher's", "usage", 40)
	b.store("a correction", "adjustment", -2)
	said, finding := b.check()
	if finding != nil || !regexp.MustCompile(`others published +40\b`).MatchString(said) {
		t.Errorf("%v\n%s", finding, said)
	}
}

// Also where something of somebody else's makes up for it.
func TestLostAndDoubledEventsAreFound(t *testing.T) {
	t.Parallel()
	own := ` where ctid = (select ctid from usage_events where starts_with(idempotency_key, $1) limit 1)`
	for name, damage := range map[string]func(b *checkEnv){
		"an event lost": func(b *checkEnv) {
			b.exec(`delete from usage_events`+own, b.demo.keys.prefix)
			b.exec(`update usage_counters set count = count - 1`)
			b.store("another publisher's", "usage", 1)
		},
		"an event that was stored and not counted": func(b *checkEnv) {
			b.exec(`update usage_counters set count = count - 1`)
			b.store("another publisher's", "usage", 1)
		},
		"an event counted twice": func(b *checkEnv) {
			b.exec(`update usage_counters set count = count + 1`)
			b.store("a correction", "adjustment", -1)
		},
		"an event stored twice": func(b *checkEnv) { b.store(b.demo.keys.next(), "usage", 1) },
		"another publisher's not counted": func(b *checkEnv) {
			b.store("another publisher's", "usage", 1)
			b.exec(`update usage_counters set count = count - 1`)
		},
		"a counter that was not opened": func(b *checkEnv) { b.exec(`delete from usage_counters`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newCheckEnv(t)
			damage(b)
			if said, finding := b.check(); finding == nil || strings.Count(said, "DIFFERENT") != 2 {
				t.Errorf("found %v\n%s", finding, said)
			}
		})
	}
}

func openPool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}
