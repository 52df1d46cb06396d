package main

import (
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"odometer/api"
)

// mail is a way to send events over HTTP.
type mail struct {
	name    string
	batch   int    // events of a request
	types   string // Content-Type
	begin   string // of a body
	between string
	end     string
	counted bool // an aggregator counts meanwhile
}

// mails are the contestants of the ingest race, in the order of the table.
var mails = []mail{
	{name: "lines, 100 a request", batch: 100, types: "application/x-ndjson", between: "\n", counted: true},
	{name: "array, 100 a request", batch: 100, types: "application/json", begin: "[", between: ",", end: "]", counted: true},
	{name: "lines, 500 a request", batch: 500, types: "application/x-ndjson", between: "\n", counted: true},
	{name: "array, 500 a request", batch: 500, types: "application/json", begin: "[", between: ",", end: "]", counted: true},
	{name: "lines, 500, not counted", batch: 500, types: "application/x-ndjson", between: "\n"},
}

// request is one of the race, as a client sends it.
type request struct {
	Types, Bearer string
	Body          []byte
	Events        int
}

// file holds the requests of a way to send.
func (m *mailing) file(way *mail) string {
	return filepath.Join(m.dir, strings.ReplaceAll(way.name, " ", "-"))
}

// write makes all requests before the race: making them up is no part of it.
// Each is of one tenant, as a token is.
func (m *mailing) write(way *mail) (err error) {
	file, err := os.Create(m.file(way))
	if err != nil {
		return fmt.Errorf("write the requests: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	out := gob.NewEncoder(file)
	for from := 0; from < m.Events; from += way.batch {
		n := min(way.batch, m.Events-from)
		tenant := m.work.tenants[from/way.batch%len(m.work.tenants)]
		token, err := api.SignToken(m.secret, api.Claims{Tenant: tenant, Subject: "bench", Scopes: []string{api.WriteScope}}, time.Hour)
		if err != nil {
			return err
		}
		r := request{Types: way.types, Bearer: "Bearer " + token, Body: []byte(way.begin), Events: n}
		for i := range n {
			if i > 0 {
				r.Body = append(r.Body, way.between...)
			}
			r.Body = m.work.appendMailed(r.Body, from+i)
		}
		r.Body = append(r.Body, way.end...)
		if err := out.Encode(r); err != nil {
			return fmt.Errorf("write the requests: %w", err)
		}
	}
	return nil
}

// appendMailed writes the event of a number as an agent without NATS does.
func (w *workload) appendMailed(b []byte, n int) []byte {
	e := w.event(n)
	return fmt.Appendf(b, `{"agent":"%s","idempotency_key":"%s","action_type":"%s","quantity":%d,"resource_id":"%s","occurred_at":"%s","metadata":%s}`,
		e.Agent, e.IdempotencyKey, e.ActionType, e.Quantity, e.ResourceID, e.OccurredAt.Format(time.RFC3339Nano), e.Metadata)
}
