package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/api"
	"odometer/cmd/internal/app"
	"odometer/ingest/publisher"
	"odometer/query"
)

const (
	queryTenants = 10_000
	queryClients = 16
	queryPlan    = "price_bundle_monthly"
	queryStored  = 100_000 // events of the tenants
	queryUnits   = 1000    // of each: limits are passed, and answers report overage and alerts

	loadRate    = 5000 // events a second that are counted meanwhile
	loadBatch   = 500
	loadWriters = 4
)

// What is compared, in the order of the table.
const (
	selectOne          = "select 1"
	usageAnswer        = "GET /api/v1/usage"
	usageWhileCounting = "the same, 5 000 events/s counted"
)

// answers are what one variant did in one round.
type answers struct {
	perSecond     float64
	p50, p95, p99 time.Duration
	counted       float64 // events a second meanwhile
}

// queryBench is the API's handler behind a loopback socket, and clients that each
// keep their connection.
type queryBench struct {
	*environment
	workload *workload
	d        *database
	s        *stream
	client   *http.Client
	url      string
	bearers  []string // of each tenant
	expected totals   // what must be counted
	numbered int      // events that have a number, by all rounds
}

func benchQuery(ctx context.Context, e *environment, report *report) (err error) {
	a := &queryBench{environment: e, workload: newWorkload(queryTenants)}
	if a.d, err = e.openDatabase(ctx, "query", queryPlan, a.workload.tenants); err != nil {
		return err
	}
	defer a.d.Close()
	if a.expected, err = a.d.store(ctx, min(queryStored, e.Events), queryUnits); err != nil {
		return err
	}
	if a.s, err = e.openStream(ctx, "query"); err != nil {
		return err
	}
	defer a.s.close()
	stopAggregator, err := e.startAggregator(ctx, a.d, a.s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopAggregator()) }()
	serving, stop := context.WithCancel(ctx)
	group, serving := errgroup.WithContext(serving)
	defer func() {
		stop()
		err = errors.Join(err, group.Wait())
	}()
	if err := a.serve(serving, group); err != nil {
		return err
	}
	return a.ask(serving, report)
}

// serve opens the API, and makes a token for each tenant.
func (a *queryBench) serve(ctx context.Context, group *errgroup.Group) error {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	keys, err := api.KeysFromSecret(secret, api.Expect{})
	if err != nil {
		return err
	}
	for _, tenant := range a.workload.tenants {
		token, err := api.SignToken(secret, api.Claims{Tenant: tenant, Scopes: []string{"usage:read"}}, time.Hour)
		if err != nil {
			return err
		}
		a.bearers = append(a.bearers, "Bearer "+token)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("serve the API: %w", err)
	}
	// Every request is logged, as in production, to where nobody reads it.
	handler := api.New(api.Options{Keys: keys, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}) //nolint:sloglint // formatting the log is part of the cost
	query.Register(handler, query.Options{Pool: a.d.Pool})
	group.Go(func() error { return app.Serve(ctx, l, handler.Handler()) })
	a.url = "http://" + l.Addr().String() + "/api/v1/usage"
	a.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: queryClients}, Timeout: 30 * time.Second}
	return nil
}

func (a *queryBench) ask(ctx context.Context, report *report) error {
	defer a.client.CloseIdleConnections()
	all := map[string][]answers{}
	for round := range a.Rounds {
		for _, variant := range []struct {
			name string
			run  func(context.Context) (answers, error)
		}{
			{selectOne, func(ctx context.Context) (answers, error) { return a.askAll(ctx, a.selectOne) }},
			{usageAnswer, func(ctx context.Context) (answers, error) { return a.askAll(ctx, a.get) }},
			{usageWhileCounting, a.askWhileCounting},
		} {
			found, err := variant.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", variant.name, err)
			}
			all[variant.name] = append(all[variant.name], found)
			a.terminal.Log.Info("query", "round", round+1, "variant", variant.name, "per_second", int(found.perSecond), "p99", found.p99)
		}
	}
	report.Query = queryTable(all)
	return nil
}

// queryShare of the span is how long each run takes.
const queryShare = 2

// askAll lets all clients ask at once, each again as soon as it has its answer.
func (a *queryBench) askAll(ctx context.Context, ask func(context.Context, int) error) (answers, error) {
	var mu sync.Mutex
	var took []time.Duration
	begin := time.Now()
	deadline := begin.Add(a.Span / queryShare)
	group, ctx := errgroup.WithContext(ctx)
	for client := range queryClients {
		group.Go(func() error {
			var own []time.Duration
			for n := client; ; n += 7919 { // a prime: all tenants in turn, in no order
				asked := time.Now()
				if asked.After(deadline) {
					break
				}
				if err := ask(ctx, n%queryTenants); err != nil {
					return err
				}
				own = append(own, time.Since(asked))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return answers{}, err
	}
	return answers{
		perSecond: float64(len(took)) / time.Since(begin).Seconds(),
		p50:       percentile(took, 0.5), p95: percentile(took, 0.95), p99: percentile(took, 0.99),
	}, nil
}

func (a *queryBench) selectOne(ctx context.Context, _ int) error {
	var one int
	if err := a.d.QueryRow(ctx, "select 1").Scan(&one); err != nil {
		return fmt.Errorf("select 1: %w", err)
	}
	return nil
}

func (a *queryBench) get(ctx context.Context, tenant int) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", a.bearers[tenant])
	response, err := a.client.Do(request)
	if err != nil {
		return fmt.Errorf("get usage: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("get usage: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("get usage: status %d: %s", response.StatusCode, body)
	}
	return nil
}

// askWhileCounting is askAll while events are published and counted.
func (a *queryBench) askWhileCounting(ctx context.Context) (answers, error) {
	pub, err := publisher.New(a.s.nc)
	if err != nil {
		return answers{}, err
	}
	loading, stop := context.WithCancel(ctx)
	defer stop()
	group, loading := errgroup.WithContext(loading)
	writers := make([]loadWriter, loadWriters)
	var slots atomic.Int64
	begin := time.Now()
	for i := range writers {
		writers[i].end = make(sequences, a.s.Partitions)
		group.Go(func() error { return writers[i].work(loading, a, pub, begin, &slots) })
	}
	found, err := a.askAll(ctx, a.get)
	stop()
	if failed := group.Wait(); failed != nil || err != nil {
		return answers{}, errors.Join(failed, err)
	}
	var sent int
	for _, w := range writers {
		if err := a.d.waitFor(ctx, w.end); err != nil {
			return answers{}, err
		}
		sent += w.sent.events
		a.expected.events, a.expected.units = a.expected.events+w.sent.events, a.expected.units+w.sent.units
	}
	a.numbered += int(slots.Load()) * loadBatch
	found.counted = float64(sent) / time.Since(begin).Seconds()
	return found, a.d.verify(ctx, a.expected)
}

// loadWriter is one of those who publish meanwhile.
type loadWriter struct {
	end  sequences
	sent totals
}

// work publishes at an even pace until ctx ends, and finishes what is under
// way. The writers share the slots in time; one that is late goes on at once.
func (w *loadWriter) work(ctx context.Context, a *queryBench, pub *publisher.Publisher, begin time.Time, slots *atomic.Int64) error {
	const length = loadBatch * time.Second / loadRate
	for {
		slot := int(slots.Add(1) - 1)
		if odometer.Sleep(ctx, time.Until(begin.Add(time.Duration(slot)*length))) != nil {
			return nil //nolint:nilerr // the time is up
		}
		events := make([]publisher.Event, loadBatch)
		for i := range events {
			events[i] = a.workload.event(a.numbered + slot*loadBatch + i)
			w.sent.units += events[i].Quantity
		}
		w.sent.events += loadBatch
		if _, err := publishAll(context.WithoutCancel(ctx), pub, events, w.end); err != nil {
			return fmt.Errorf("publish meanwhile: %w", err)
		}
	}
}

// queryLine is a variant's line in the table.
type queryLine struct {
	Variant   string  `json:"contestant" column:"query"`
	PerSecond float64 `json:"requests_per_second" column:"requests/s;thousands"`
	OfSelect  float64 `json:"of_select_1" column:"of select 1;ratio"`
	P50       float64 `json:"p50_ms" column:"p50 ms;%.2f"`
	P95       float64 `json:"p95_ms" column:"p95 ms;%.2f"`
	P99       float64 `json:"p99_ms" column:"p99 ms;%.2f"`
	Counted   float64 `json:"events_counted_per_second" column:"events/s counted;thousands"`
}

const queryNote = `16 clients on connections that they keep, 10 000 tenants; token, statement and JSON included. Clients, API, NATS,
aggregator and Postgres share this machine.`

func queryTable(all map[string][]answers) []queryLine {
	var lines []queryLine
	for _, name := range []string{selectOne, usageAnswer, usageWhileCounting} {
		of := func(get func(answers) time.Duration) float64 {
			return median(all[name], func(a answers) float64 { return milliseconds(get(a)) })
		}
		perSecond := func(a answers) float64 { return a.perSecond }
		lines = append(lines, queryLine{
			Variant: name, PerSecond: median(all[name], perSecond),
			P50:      of(func(a answers) time.Duration { return a.p50 }),
			P95:      of(func(a answers) time.Duration { return a.p95 }),
			P99:      of(func(a answers) time.Duration { return a.p99 }),
			OfSelect: medianRatio(all[name], all[selectOne], perSecond),
			Counted:  median(all[name], func(a answers) float64 { return a.counted }),
		})
	}
	return lines
}
