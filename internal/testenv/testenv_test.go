package testenv

import (
	"testing"
	"time"

	"odometer/ingest"
	"odometer/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestEnvironmentHasStreamCatalogueAndSubscriptions(t *testing.T) {
	t.Parallel()
	e := New(t, Options{Tenants: 2})
	e.Publish(Email(Tenant(0), "a", 3))
	e.PublishRaw("usage."+Tenant(1).String()+".inbox", "not JSON")
	if event, payload := e.Stored(1); event.Key != "a" || event.Quantity != 3 || payload == "" {
		t.Errorf("stored %+v, %q", event, payload)
	}
	if e.Messages() != 2 || e.LastSeq() != 2 {
		t.Errorf("the stream holds %d messages up to %d, want 2 up to 2", e.Messages(), e.LastSeq())
	}
	if n := e.Number(`select count(*) from billing_periods where plan_id = $1`, Bundle); n != 2 {
		t.Errorf("%d periods, want one for each tenant", n)
	}
	e.SetPositions(4, e.LastSeq(), time.Now())
	e.WaitUntilRead()
	e.CheckCounters()
}

func TestDatabaseAloneHasTheCatalogue(t *testing.T) {
	t.Parallel()
	d := NewDatabase(t)
	if agents := d.Texts(`select agent from agents order by position`); len(agents) != 3 || agents[0] != "inbox" {
		t.Errorf("agents %q, want those of the sample catalogue", agents)
	}
	if n := d.Count(Tenant(0), "inbox"); n != 0 {
		t.Errorf("counted %d in a fresh database", n)
	}
}

// failing records instead of failing its test.
type failing struct {
	testing.TB
	failed bool
}

func (f *failing) Errorf(string, ...any) { f.failed = true }

func TestChecksFindWhatIsWrong(t *testing.T) {
	t.Parallel()
	e := New(t, Options{Tenants: 1})
	f := &failing{TB: t}
	e.Database.t, e.Stream.t = f, f
	e.Publish(Email(Tenant(0), "a", 1))
	if e.CheckMessages(); !f.failed {
		t.Error("a message that is nowhere goes unnoticed")
	}
	f.failed = false
	e.Exec(`insert into usage_counters (tenant_id, agent, period_start, period_end, count)
		select tenant_id, 'inbox', period_start, period_end, 1 from billing_periods`)
	if e.CheckCounters(); !f.failed {
		t.Error("a count without events goes unnoticed")
	}
}

func TestFullStreamRefuses(t *testing.T) {
	t.Parallel()
	s := NewStream(t, ingest.StreamConfig{})
	s.Fill()
	if _, err := s.JetStream.Publish(t.Context(), "usage."+Tenant(0).String()+".inbox", []byte("x")); err == nil {
		t.Error("a full stream took a message")
	}
}
