package app

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"odometer"
	"odometer/api"
	"odometer/cmd/internal/cli"
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
	server := api.New(api.Options{Keys: s.Keys, Origins: s.Origins, Log: s.Terminal.Log, Registerer: s.Registry})
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
		query.Register(server, query.Options{Pool: s.ReadPool, RequestsPerMinute: s.RequestsPerMinute})
		admin.Register(server, AdminOptions(s.ReadPool, s.NATS))
		web.Register(server.Mux(), web.Options{Sessions: s.Sessions, Addr: s.HTTPAddr, Log: s.Terminal.Log})
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
	for logged := false; ; logged = true {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, cli.DependencyTimeout)
			defer cancel()
			_, err := ingest.EnsureStream(ctx, js, s.Stream)
			return err
		}()
		if err == nil || errors.Is(err, ingest.ErrStreamUnfit) {
			return err
		}
		if !logged && ctx.Err() == nil {
			s.Terminal.Log.Warn("waiting for NATS", "servers", s.NATS.Opts.Servers, "err", cmp.Or(s.NATS.LastError(), err))
		}
		if odometer.Sleep(ctx, time.Second) != nil {
			return nil //nolint:nilerr // ctx has ended: the service was stopped
		}
	}
}
