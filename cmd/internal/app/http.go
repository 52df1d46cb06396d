package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/aggregator/deadletter"
	"odometer/api"
	"odometer/cmd/internal/cli"
	"odometer/cmd/internal/jobs"
	"odometer/ingest"
	"odometer/ingest/httpingest"
	"odometer/ingest/publisher"
	"odometer/query"
	"odometer/query/admin"
	"odometer/query/web"
	"odometer/reporter/subscriptions"
)

// OriginSettings say which pages may show usage.
type OriginSettings struct {
	CORSOrigins []string `name:"cors-origins" help:"Origins of pages that may show the usage widget, as https://app.example; several separated by commas." env:"ODOMETER_CORS_ORIGINS" placeholder:"ORIGIN"`
}

// CheckOrigins returns a usage error for an origin that no browser sends.
func (s *OriginSettings) CheckOrigins() error {
	for _, origin := range s.CORSOrigins {
		if err := api.CheckOrigin(origin); err != nil {
			return cli.Usagef("--cors-origins: %w", err)
		}
	}
	return nil
}

// httpHandler is the HTTP API and the webhook, nil when neither is served.
func (s *Services) httpHandler(received chan<- struct{}) (http.Handler, error) {
	if s.Keys == nil && s.WebhookSecret == "" {
		return nil, nil
	}
	if s.Keys == nil {
		mux := http.NewServeMux()
		s.registerWebhook(mux, received)
		return mux, nil
	}
	server := api.New(api.Options{Keys: s.Keys, Origins: s.Settings.CORSOrigins, Log: s.Terminal.Log, Registerer: s.Registry})
	if err := s.Register(server); err != nil {
		return nil, err
	}
	s.registerWebhook(server.Mux(), received)
	return server.Handler(), nil
}

// registerWebhook takes Stripe's hooks, which are signed and bring no token.
func (s *Services) registerWebhook(mux *http.ServeMux, received chan<- struct{}) {
	if s.WebhookSecret == "" {
		return
	}
	wake := func() {
		select {
		case received <- struct{}{}:
		default: // it is awake
		}
	}
	mux.Handle("POST /webhooks/stripe", subscriptions.Handler(s.Pool, s.WebhookSecret, wake, s.Terminal.Log))
}

// Register puts the operations and pages of the services that run here with
// the API server.
func (s *Services) Register(server *api.API) error {
	if s.Query {
		query.Register(server, query.Options{Pool: s.ReadPool, RequestsPerMinute: s.Settings.UsageRequestsPerMinute})
		admin.Register(server, AdminOptions(s.ReadPool, s.NATS))
		web.Register(server.Mux(), web.Options{Sessions: s.Sessions, Addr: s.Settings.HTTPAddr, Log: s.Terminal.Log})
	}
	if s.Ingest {
		pub, err := publisher.New(s.NATS)
		if err != nil {
			return err
		}
		if !s.Query {
			web.RegisterDocs(server.Mux())
		}
		httpingest.Register(server, httpingest.Options{Publisher: pub, Log: s.Terminal.Log})
	}
	return nil
}

// ensureStream makes the stream that HTTP ingest publishes to, where no reader
// has made it yet. It waits for NATS as long as it takes; only a stream that
// is not fit to hold events ends the process.
func (s *Services) ensureStream(ctx context.Context) error {
	js := cli.JetStream(s.NATS)
	return s.waitFor(ctx, "NATS", func(ctx context.Context) (retry bool, err error) {
		_, err = ingest.EnsureStream(ctx, js, s.Stream)
		if err == nil || errors.Is(err, ingest.ErrStreamUnfit) {
			return false, err
		}
		return true, fmt.Errorf("servers %v: %w", s.NATS.Opts.Servers, cmp.Or(s.NATS.LastError(), err))
	})
}

// AdminOptions hands the operators' API what other stages do; nc may be nil.
func AdminOptions(pool *pgxpool.Pool, nc *nats.Conn) admin.Options {
	o := admin.Options{
		Pool: pool,
		RetryDeadLetters: func(ctx context.Context, ids []odometer.Position, who string) ([]admin.DeadLetterOutcome, error) {
			return retryDeadLetters(ctx, pool, ids, who)
		},
		Jobs: func(ctx context.Context) ([]admin.Job, error) { return jobs.List(ctx, pool, time.Now()) },
		SetPaused: func(ctx context.Context, job string, paused bool, who string) error {
			return jobs.SetPaused(ctx, pool, job, paused, who)
		},
	}
	if nc != nil {
		js := cli.JetStream(nc)
		o.StreamEnd = func(ctx context.Context) (int64, error) {
			stream, err := js.Stream(ctx, ingest.StreamName)
			if err != nil {
				return 0, fmt.Errorf("read the state of stream %s: %w", ingest.StreamName, err)
			}
			return int64(stream.CachedInfo().State.LastSeq), nil
		}
		o.Waiting = func(ctx context.Context, partition int, after, through int64) (int64, error) {
			return ingest.CountUnread(ctx, nc, partition, after, through)
		}
	}
	return o
}

// retryDeadLetters retries the dead letters of these ids and returns the outcome of each.
func retryDeadLetters(ctx context.Context, pool *pgxpool.Pool, ids []odometer.Position, who string) ([]admin.DeadLetterOutcome, error) {
	var became []admin.DeadLetterOutcome
	err := deadletter.Retry(ctx, pool, deadletter.Selection{IDs: ids}, who, func(o deadletter.Outcome) {
		became = append(became, admin.DeadLetterOutcome{
			ID: deadletter.ID(o.ID), State: o.State, Reason: o.Reason, Detail: o.Detail, Already: o.Before,
		})
	})
	return became, err
}
