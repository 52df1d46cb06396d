package deadletter

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"odometer/aggregator"
	"odometer/aggregator/internal/aggtest"
	"odometer/aggregator/position"
	"odometer/ingest"
	"odometer/internal/testenv"
)

// testEnv is an environment in which an aggregator can run.
type testEnv struct{ *aggtest.Env }

func newEnv(t testing.TB, o testenv.Options) *testEnv {
	t.Helper()
	return &testEnv{aggtest.New(t, o)}
}

// run aggregates until the returned function is called, or the test ends.
func (h *testEnv) run() (stop func()) {
	h.T.Helper()
	a, err := aggregator.New(aggregator.Options{
		Pool: h.Pool, NATS: h.NATS, Stream: h.Config, Log: slog.New(slog.NewTextHandler(h.T.Output(), nil)),
		Metrics: aggregator.NewMetrics(prometheus.NewRegistry(), false),
	})
	if err != nil {
		h.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.T.Errorf("aggregator: %v", err)
		}
	})
	h.T.Cleanup(stop)
	return stop
}

// createPositions stands for an aggregator that has read nothing yet.
func (h *testEnv) createPositions() {
	h.T.Helper()
	stream, err := h.JetStream.Stream(h.T.Context(), ingest.StreamName)
	if err != nil {
		h.T.Fatal(err)
	}
	if err := position.Create(h.T.Context(), h.Pool, position.Created(stream.CachedInfo()), 4); err != nil {
		h.T.Fatal(err)
	}
}
