package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"odometer"
	"odometer/cmd/internal/cli"
	"odometer/migrations"
)

// NewRegistry is a registry of metrics with those of Go and of the process.
func NewRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// Listen takes an address before anything else starts, so that a taken one is
// reported at once with the name of its flag.
func Listen(addr, flag string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, cli.Usagef("--%s %s: %w: give another address", flag, addr, err)
	}
	return l, nil
}

// Serve answers until ctx ends, then lets running requests finish.
func Serve(ctx context.Context, l net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	finished := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(finished)
		last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(last) // what has not finished by then is cut
	})
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	}
	<-finished
	return nil
}

// opsHandler is for operators and their machines; it asks for no token and
// belongs on an address of its own.
func (s *Services) opsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.checkReady(r.Context()); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}

const unknownPartitionsSQL = `
select
    count(*),
    count(*) filter (where complete_until is null)
from stream_positions`

// checkReady is nil when the dependencies answer and, where the aggregator runs,
// each partition is known to be complete up to some time.
func (s *Services) checkReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if s.Pool != nil {
		if err := s.Pool.Ping(ctx); err != nil {
			return errors.New("Postgres does not answer")
		}
		if err := migrations.Check(ctx, s.Pool); err != nil {
			return err
		}
	}
	if s.NATS != nil && !s.NATS.IsConnected() {
		return errors.New("NATS does not answer")
	}
	if !s.Aggregator {
		return nil
	}
	var partitions, unknown int
	if err := s.Pool.QueryRow(ctx, unknownPartitionsSQL).Scan(&partitions, &unknown); err != nil {
		return errors.New("Postgres does not return the positions")
	}
	if partitions == 0 || unknown > 0 {
		return fmt.Errorf("%d of %d partitions were never read to their end", unknown, partitions)
	}
	return nil
}

// waitForSchema waits until Postgres answers, and fails when its schema is not
// the one that this binary knows.
func (s *Services) waitForSchema(ctx context.Context) error {
	return s.waitFor(ctx, "Postgres", func(ctx context.Context) (retry bool, err error) {
		err = migrations.Check(ctx, s.Pool)
		return err != nil && !errors.Is(err, migrations.ErrBehind) && !errors.Is(err, migrations.ErrAhead), err
	})
}

// waitFor tries until a dependency answers or ctx ends, and logs once that it
// waits. An attempt is cut after DependencyTimeout, and returns whether to retry.
func (s *Services) waitFor(ctx context.Context, dependency string, attempt func(context.Context) (retry bool, err error)) error {
	pause := odometer.Backoff{Min: 100 * time.Millisecond, Max: time.Second}
	for logged := false; ; logged = true {
		limited, cancel := context.WithTimeout(ctx, cli.DependencyTimeout)
		retry, err := attempt(limited)
		cancel()
		if !retry {
			return err
		}
		if !logged && ctx.Err() == nil {
			s.Terminal.Log.Warn("waiting for "+dependency, "err", err)
		}
		if pause.Wait(ctx) != nil {
			return nil //nolint:nilerr // ctx has ended: the service was stopped
		}
	}
}

// FreeAddress is the preferred address, or any free one beside it when another
// program has that.
func FreeAddress(preferred string) string {
	l, err := net.Listen("tcp", preferred)
	if err != nil {
		host, _, _ := net.SplitHostPort(preferred)
		if l, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
			return preferred
		}
	}
	defer l.Close()
	return l.Addr().String()
}
