package aggregator

import (
	"context"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"odometer/aggregator/internal/aggtest"
	"odometer/ingest"
	"odometer/internal/testenv"
)

var (
	email    = testenv.Email
	tenantOf = testenv.Tenant
)

// testEnv is an environment in which an aggregator runs.
type testEnv struct{ *aggtest.Env }

func newEnv(t testing.TB) *testEnv {
	t.Helper()
	return newEnvWith(t, testenv.Options{})
}

func newEnvOn(t testing.TB, pool *pgxpool.Pool) *testEnv {
	t.Helper()
	return newEnvWith(t, testenv.Options{Pool: pool})
}

// newEnvFor is newEnv with another configuration of the stream.
func newEnvFor(t testing.TB, stream ingest.StreamConfig) *testEnv {
	t.Helper()
	return newEnvWith(t, testenv.Options{Stream: stream})
}

func newEnvWith(t testing.TB, o testenv.Options) *testEnv {
	t.Helper()
	return &testEnv{aggtest.New(t, o)}
}

func (h *testEnv) aggregator(change ...func(*Options)) *Aggregator {
	h.T.Helper()
	o := Options{
		Pool: h.Pool, NATS: h.NATS, Stream: h.Config, Log: slog.New(slog.NewTextHandler(h.T.Output(), nil)),
		Metrics: NewMetrics(prometheus.NewRegistry(), false),
	}
	for _, c := range change {
		c(&o)
	}
	a, err := New(o)
	if err != nil {
		h.T.Fatal(err)
	}
	return a
}

// run aggregates until the returned function is called, or the test ends.
func (h *testEnv) run(change ...func(*Options)) (stop func()) {
	h.T.Helper()
	a := h.aggregator(change...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			h.T.Errorf("aggregator: %v", err)
		}
	}
	h.T.Cleanup(stop)
	return stop
}

// attach creates the positions, as the stream's first reader does.
func (h *testEnv) attach() {
	h.T.Helper()
	if _, err := h.aggregator().attach(h.T.Context()); err != nil {
		h.T.Fatal(err)
	}
}
