package main

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

	"odometer/api"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest/publisher"
	"odometer/query"
)

const (
	queryTenants = 10_000
	queryClients = 16
	queryPlan    = "price_bundle_monthly"
	queryStored  = 100_000 // events of the tenants
	queryUnits   = 1000    // of each: limits are passed, and answers tell of overage and alerts

	loadRate    = 5000 // events a second that are counted meanwhile
	loadBatch   = 500
	loadWriters = 4
)

// The contestants of the query race, in the order of the table.
const (
	selectOne     = "select 1"
	usageAnswer   = "GET /api/v1/usage"
	usageUnderWay = "the same, 5 000 events/s counted"
)

// answers are what one contestant did in one round.
type answers struct {
	perSecond     float64
	p50, p95, p99 time.Duration
	counted       float64 // events a second meanwhile
}

// asking is the query race: the handler behind a loopback socket, and clients
// that each keep their connection.
type asking struct {
	*benchCmd
	*ground
	workload *workload
	d        *database
	s        *benchStream
	client   *http.Client
	url      string
	bearers  []string // of each tenant
	books    books    // what must stand there
	numbered int      // events that have a number, by all rounds
}

func (c *benchCmd) raceQueries(ctx context.Context, g *ground, report *benchReport) (err error) {
	a := &asking{benchCmd: c, ground: g, workload: newWorkload(queryTenants)}
	if a.d, err = g.openDatabase(ctx, "asked", queryPlan, a.workload.tenants); err != nil {
		return err
	}
	defer a.d.Close()
	if a.books, err = a.d.store(ctx, queryStored, queryUnits); err != nil {
		return err
	}
	if a.s, err = g.openStream(ctx, "asked"); err != nil {
		return err
	}
	defer a.s.close()
	r, err := g.enter(ctx, contestant{Role: aggregateRole, DatabaseURL: a.d.url, NATSURL: a.s.server.ClientURL()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.leave()) }()
	if err := r.start(); err != nil {
		return err
	}
	if err := a.d.waitUntilRead(ctx); err != nil {
		return err
	}
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
func (a *asking) serve(ctx context.Context, group *errgroup.Group) error {
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
	// Every request is logged, as in life, to where nobody reads it.
	door := api.New(api.Options{Keys: keys, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	query.Register(door, query.Options{Pool: a.d.Pool})
	group.Go(func() error { return app.Serve(ctx, l, door.Handler()) })
	a.url = "http://" + l.Addr().String() + "/api/v1/usage"
	a.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: queryClients}, Timeout: 30 * time.Second}
	return nil
}

func (a *asking) ask(ctx context.Context, report *benchReport) error {
	defer a.client.CloseIdleConnections()
	all := map[string][]answers{}
	for round := range a.Rounds {
		for _, contestant := range []struct {
			name string
			run  func(context.Context) (answers, error)
		}{
			{selectOne, func(ctx context.Context) (answers, error) { return a.crowd(ctx, a.selectOne) }},
			{usageAnswer, func(ctx context.Context) (answers, error) { return a.crowd(ctx, a.get) }},
			{usageUnderWay, a.crowdUnderLoad},
		} {
			found, err := contestant.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", contestant.name, err)
			}
			all[contestant.name] = append(all[contestant.name], found)
			a.t.Log.Info("query", "round", round+1, "contestant", contestant.name, "per_second", int(found.perSecond), "p99", found.p99)
		}
	}
	report.Query = queryTable(all)
	return nil
}

// queryShare of the span is how long a lap of the query race takes.
const queryShare = 2

// crowd lets all clients ask at once, each again as soon as it has its answer.
func (a *asking) crowd(ctx context.Context, ask func(context.Context, int) error) (answers, error) {
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

func (a *asking) selectOne(ctx context.Context, _ int) error {
	var one int
	if err := a.d.QueryRow(ctx, "select 1").Scan(&one); err != nil {
		return fmt.Errorf("select 1: %w", err)
	}
	return nil
}

func (a *asking) get(ctx context.Context, tenant int) error {
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

// crowdUnderLoad is the crowd while events are published and counted.
func (a *asking) crowdUnderLoad(ctx context.Context) (answers, error) {
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
		writers[i].end = make(tails, a.s.Partitions)
		group.Go(func() error { return writers[i].work(loading, a, pub, begin, &slots) })
	}
	found, err := a.crowd(ctx, a.get)
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
		a.books.events, a.books.units = a.books.events+w.sent.events, a.books.units+w.sent.units
	}
	a.numbered += int(slots.Load()) * loadBatch
	found.counted = float64(sent) / time.Since(begin).Seconds()
	return found, a.d.verify(ctx, a.books)
}

// loadWriter is one of those who publish meanwhile.
type loadWriter struct {
	end  tails
	sent books
}

// work publishes at an even pace until ctx ends, and finishes what is under
// way. The writers share the slots in time; one that is late goes on at once.
func (w *loadWriter) work(ctx context.Context, a *asking, pub *publisher.Publisher, begin time.Time, slots *atomic.Int64) error {
	const length = loadBatch * time.Second / loadRate
	for {
		slot := int(slots.Add(1) - 1)
		if cli.PauseFor(ctx, time.Until(begin.Add(time.Duration(slot)*length))) != nil {
			return nil
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
