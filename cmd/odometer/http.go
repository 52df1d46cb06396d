package main

import (
	"net/http"

	"odometer/api"
	"odometer/query"
	"odometer/reporter/subscriptions"
)

// httpHandler is what listens for the world, nil when nothing does.
func (s *services) httpHandler(received chan<- struct{}) http.Handler {
	if s.keys == nil && s.hookSecret == "" {
		return nil
	}
	mux := http.NewServeMux()
	if s.keys != nil {
		mux.Handle("/", s.door().Handler())
	}
	if s.hookSecret != "" {
		wake := func() {
			select {
			case received <- struct{}{}:
			default: // it is awake
			}
		}
		mux.Handle("POST /webhooks/stripe", subscriptions.Handler(s.pool, s.hookSecret, wake, s.t.log))
	}
	return mux
}

// door is the API with the operations of the services that run here.
func (s *services) door() *api.API {
	door := api.New(api.Options{Keys: s.keys, Origins: s.origins, Log: s.t.log, Registerer: s.registry})
	query.Register(door, query.Options{Pool: s.pool, RequestsPerMinute: s.requestsPerMinute})
	return door
}
