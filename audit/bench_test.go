package audit

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"odometer/ingest"
)

// BenchmarkAudit compares both sides of the audit with the least that could be
// done: an ordered read without any work, and a bare sum over the same rows.
// ODOMETER_BENCH_EVENTS says how many events there are.
func BenchmarkAudit(b *testing.B) {
	n, _ := strconv.Atoi(os.Getenv("ODOMETER_BENCH_EVENTS"))
	if n == 0 {
		n = 20_000
	}
	h := newHouse(b, 500)
	h.run()
	for done := 0; done < n; {
		var events []ingest.Event
		for range min(50_000, n-done) {
			events = append(events, email(h.tenants[done%len(h.tenants)], fmt.Sprint("event ", done), int64(done%9+1)))
			done++
		}
		h.publish(events...)
	}
	h.settled()
	h.stop()
	h.exec(`vacuum analyze usage_events`)
	a := &auditor{Options: h.options(), js: h.js, progress: func(Progress) {}, report: newReport(Scope{})}
	rate := func(what string, work func() error) {
		best := time.Duration(0)
		var memory uint64
		for range 5 {
			stop := watchMemory(&memory)
			began := time.Now()
			if err := work(); err != nil {
				b.Fatal(err)
			}
			if took := time.Since(began); best == 0 || took < best {
				best = took
			}
			stop()
		}
		b.Logf("%-24s %9.0f/s, %4d MB", what, float64(n)/best.Seconds(), memory>>20)
	}
	rate("ordered read", func() error { return h.readOnly(n) })
	rate("stream and events", func() error { return a.compareStream(context.Background()) })
	rate("the same by key", func() error { return a.byKeyOnly() })
	rate("bare sum", func() error {
		rows, _ := h.pool.Query(context.Background(), `select tenant_id, agent, period_start, sum(quantity) from usage_events group by 1, 2, 3`)
		_, err := pgx.CollectRows(rows, func(pgx.CollectableRow) (int, error) { return 0, nil })
		return err
	})
	rate("events and counters", func() error { return a.compareCounters(context.Background()) })
	if a.report.Different != 0 {
		b.Errorf("%d differences: %+v", a.report.Different, a.report.Differences[0])
	}
}

func (a *auditor) byKeyOnly() error {
	m := &matcher{auditor: a, layout: &layout{stretches: []stretch{{Low: 1, High: a.at.end, Rows: 1 << 40}}}}
	if err := a.readAll(context.Background(), m, 1); err != nil {
		return err
	}
	return m.lookBack(context.Background())
}

func (h *house) readOnly(n int) error {
	stream, err := h.js.Stream(context.Background(), ingest.StreamName)
	if err != nil {
		return err
	}
	p, err := newPull(context.Background(), h.nc, stream, 1, time.Time{}, nil)
	if err != nil {
		return err
	}
	defer p.stop(stream)
	for range n {
		if _, _, err := p.receive(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

// watchMemory notes the most that was in use, the NATS server included.
func watchMemory(most *uint64) (stop func()) {
	var ended atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !ended.Load() {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			*most = max(*most, m.HeapInuse)
			time.Sleep(50 * time.Millisecond)
		}
	}()
	return func() { ended.Store(true); <-done }
}
