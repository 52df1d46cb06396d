package main

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"odometer/api"
	"odometer/ingest"
	"odometer/ingest/httpingest"
	"odometer/ingest/publisher"
	"odometer/query"
	"odometer/query/admin"
	"odometer/query/web"
	"odometer/reporter/subscriptions"
)

// originSettings say which pages may show usage.
type originSettings struct {
	CORSOrigins []string `name:"cors-origins" help:"Origins of pages that may show the usage widget, as https://app.example; several separated by commas." env:"ODOMETER_CORS_ORIGINS" placeholder:"ORIGIN"`
}

func (s *originSettings) checkOrigins() error {
	for _, origin := range s.CORSOrigins {
		if err := api.CheckOrigin(origin); err != nil {
			return usagef("--cors-origins: %w", err)
		}
	}
	return nil
}

// httpHandler is what listens for the world, nil when nothing does.
func (s *services) httpHandler(received chan<- struct{}) (http.Handler, error) {
	if s.keys == nil && s.hookSecret == "" {
		return nil, nil
	}
	if s.keys == nil {
		mux := http.NewServeMux()
		s.takeHooks(mux, received)
		return mux, nil
	}
	door := api.New(api.Options{Keys: s.keys, Origins: s.origins, Log: s.t.log, Registerer: s.registry})
	if err := s.register(door); err != nil {
		return nil, err
	}
	s.takeHooks(door.Mux(), received)
	return door.Handler(), nil
}

// takeHooks takes Stripe's hooks, which are signed and bring no token.
func (s *services) takeHooks(mux *http.ServeMux, received chan<- struct{}) {
	if s.hookSecret == "" {
		return
	}
	wake := func() {
		select {
		case received <- struct{}{}:
		default: // it is awake
		}
	}
	mux.Handle("POST /webhooks/stripe", subscriptions.Handler(s.pool, s.hookSecret, wake, s.t.log))
}

// register puts the operations and pages of the services that run here behind
// the door.
func (s *services) register(door *api.API) error {
	if s.answers {
		query.Register(door, query.Options{Pool: s.readers, RequestsPerMinute: s.requestsPerMinute})
		admin.Register(door, adminOptions(s.readers, s.nats))
		web.Register(door.Mux(), web.Options{Sessions: s.sessions, Addr: s.httpAddr, Log: s.t.log})
	}
	if s.ingests {
		pub, err := publisher.New(s.nats)
		if err != nil {
			return err
		}
		if !s.answers {
			web.RegisterDocs(door.Mux())
		}
		httpingest.Register(door, httpingest.Options{Publisher: pub, Log: s.t.log})
	}
	return nil
}

// keepStream makes the stream that HTTP ingest publishes to, where no reader
// has made it yet. It waits for NATS as long as it takes; only a stream that
// is not fit to hold events ends the process.
func (s *services) keepStream(ctx context.Context) error {
	js := mustJetStream(s.nats)
	for said := false; ; said = true {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			_, err := ingest.EnsureStream(ctx, js, s.stream)
			return err
		}()
		if err == nil || errors.Is(err, ingest.ErrStreamUnfit) {
			return err
		}
		if !said && ctx.Err() == nil {
			s.t.log.Warn("waiting for NATS", "servers", s.nats.Opts.Servers, "err", cmp.Or(s.nats.LastError(), err))
		}
		if pauseFor(ctx, time.Second) != nil {
			return nil
		}
	}
}
