package query

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"odometer"
)

// export is a whole file.
func (b *testEnv) export(r EventsRequest) string {
	b.Helper()
	e, err := OpenExport(context.Background(), b.pool, r)
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	var text bytes.Buffer
	if err := e.Write(&text); err != nil {
		b.Fatal(err)
	}
	return text.String()
}

func TestExportIsRFC4180(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	resource := "a \"quoted\", b\nc"
	b.add(tenant,
		Event{EventID: uuid.MustParse("234bc095-7256-f1c7-9fc4-3b4aca9c1841"), Quantity: 3, ResourceID: &resource, IdempotencyKey: "=cmd()", Metadata: `{"a": "b"}`,
			OccurredAt: instant("2026-11-23T07:00:00.5Z"), RecordedAt: instant("2026-11-23T08:00:01+01:00")},
		Event{EventID: uuid.MustParse("00000000-7256-f1c7-9fc4-3b4aca9c1841"), Kind: odometer.Adjustment, ActionType: "adjustment", Quantity: -2, IdempotencyKey: "-2",
			OccurredAt: instant("2026-10-31T23:00:00Z")},
	)
	request := november(tenant)
	request.From = request.From.AddDate(0, 0, -1)
	want := "event_id,agent,kind,action_type,resource_id,quantity,idempotency_key,metadata,occurred_at,recorded_at,period_start,late\r\n" +
		"234bc095-7256-f1c7-9fc4-3b4aca9c1841,inbox,usage,email_processed,\"a \"\"quoted\"\", b\nc\",3,'=cmd(),\"{\"\"a\"\": \"\"b\"\"}\",2026-11-23T07:00:00.5Z,2026-11-23T07:00:01Z,2026-11-01T00:00:00Z,false\r\n" +
		"00000000-7256-f1c7-9fc4-3b4aca9c1841,inbox,adjustment,adjustment,,-2,'-2,,2026-10-31T23:00:00Z,2026-10-31T23:00:00Z,2026-11-01T00:00:00Z,true\r\n"
	if diff := cmp.Diff(want, b.export(request)); diff != "" {
		t.Error(diff)
	}
	if got := b.export(EventsRequest{Reader: reading(b.customer("price_bundle_monthly"))}); got != csvHeader {
		t.Errorf("a file without events: %q", got)
	}
}

func TestExportEscapesFormulas(t *testing.T) {
	t.Parallel()
	for cell, want := range map[string]string{
		"=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@a": "'@a", "\ta": "'\ta", "\ra": "'\ra",
		"": "", "a=1": "a=1", "'=1": "'=1", "{}": "{}", "1-": "1-",
	} {
		if got := escapeFormula(cell); got != want {
			t.Errorf("%q becomes %q, want %q", cell, got, want)
		}
	}
}

// The names of an event's members, and what a cell says of each.
func cells(t testing.TB, e Event) []string {
	t.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&members); err != nil {
		t.Fatal(err)
	}
	var row []string
	for _, name := range strings.Split(strings.TrimSpace(csvHeader), ",") {
		switch v := members[name].(type) {
		case nil:
			row = append(row, "")
		case string:
			row = append(row, v)
		case json.Number:
			row = append(row, v.String())
		case bool:
			row = append(row, map[bool]string{true: "true", false: "false"}[v])
		case map[string]any:
			row = append(row, string(e.Metadata))
		}
		delete(members, name)
	}
	if len(members) != 0 {
		t.Fatalf("a file has no columns for %v", members)
	}
	return row
}

func TestExportHasTheSameEventsAsPages(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	awkward := rapid.StringOf(rapid.RuneFrom([]rune("ab,\"'\n =+-@é;\t")))
	rapid.Check(t, func(t *rapid.T) {
		tenant := b.customer("price_bundle_monthly")
		at := instant("2026-11-23T07:00:00Z")
		var events []Event
		for range rapid.IntRange(0, 6).Draw(t, "events") {
			resource := awkward.Draw(t, "resource")
			metadata, _ := json.Marshal(map[string]string{"x": awkward.Draw(t, "metadata")})
			events = append(events, Event{
				ResourceID: &resource, IdempotencyKey: "k" + awkward.Draw(t, "key"), Metadata: Metadata(metadata),
				OccurredAt: at.Add(-time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "back")) * 1000),
				Agent:      rapid.SampledFrom([]string{"inbox", "invoice"}).Draw(t, "agent"),
			})
		}
		b.add(tenant, events...)
		request := november(tenant)
		request.Agent = rapid.SampledFrom([]string{"", "inbox"}).Draw(t, "only")
		request.Limit = rapid.SampledFrom([]int{1, 3, MaxEvents}).Draw(t, "limit")
		rows, err := csv.NewReader(strings.NewReader(b.export(request))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		var want [][]string
		for _, e := range b.events(request).Events {
			row := cells(b, e)
			for _, i := range []int{4, 6} {
				row[i] = escapeFormula(row[i])
			}
			want = append(want, row)
		}
		if diff := cmp.Diff(want, rows[1:], cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// many gives a tenant events, each with so many times 32 bytes of metadata.
func (b *testEnv) many(tenant uuid.UUID, n, notes int) {
	b.Helper()
	b.exec(`insert into usage_events (tenant_id, event_id, agent, kind, action_type, quantity, idempotency_key,
			metadata, occurred_at, recorded_at, period_start, stream_epoch, stream_seq)
		select $1, gen_random_uuid(), 'inbox', 'usage', 'email_processed', 1, 'key-' || n,
			jsonb_build_object('note', repeat(md5(n::text), $3)), at, at, '2026-11-01Z', 1, n
		from generate_series(1, $2::int) as n, lateral (select timestamptz '2026-11-02Z' + n * interval '1 second' as at) as t`, tenant, n, notes)
}

// heap is what is alive after collecting the rest, pools too.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	return now.HeapAlloc
}

// watched looks at the heap now and then while it is written to.
type watched struct {
	written, most uint64
	writes        int
}

func (w *watched) Write(part []byte) (int, error) {
	if w.writes%40 == 2 {
		w.most = max(w.most, heap())
	}
	w.writes++
	w.written += uint64(len(part))
	return len(part), nil
}

// It does not run beside others, whose memory it would see.
func TestExportMemoryDoesNotDependOnItsSize(t *testing.T) {
	const most = 100_000
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	b.many(tenant, most, 10)
	export := func(events int) (w watched) {
		request := november(tenant)
		request.From = request.From.AddDate(0, 0, 1)
		request.To = request.From.Add(time.Duration(events+1) * time.Second)
		e, err := OpenExport(context.Background(), b.pool, request)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		began := time.Now()
		if err := e.Write(&w); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d events: a file of %d kB in %s, with a heap of %d kB at most", events, w.written>>10, time.Since(began), w.most>>10)
		return w
	}
	small, large := export(4*exportStep), export(most)
	if large.written < 40*small.written {
		t.Errorf("a file of %d bytes, another of %d", small.written, large.written)
	}
	if large.most > small.most+2<<20 {
		t.Errorf("a heap of %d bytes for the small file, %d for the large one", small.most, large.most)
	}
}

const endFetchSQL = `
select pg_terminate_backend(pid)
from pg_stat_activity
where datname = current_database()
  and query like 'fetch forward%'`

func TestUnfinishedExportIsAnError(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	tenant := b.customer("price_bundle_monthly")
	b.many(tenant, 3*exportStep, 1)
	e, err := OpenExport(context.Background(), b.pool, november(tenant))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	b.exec(endFetchSQL)
	if err := e.Write(io.Discard); err == nil {
		t.Error("the database was gone, and the file whole")
	}
}
