package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"odometer/api"
	"odometer/cmd/internal/cli"
)

// delivery is what the clients have done.
type delivery struct {
	Took, P50, P99 time.Duration // of all; of a request
	Accepted       int           // events
}

// prepareClients is all clients. It is ready when it has read the requests.
func prepareClients(_ context.Context, _ *cli.Terminal, p childParams) (childWork, string, error) {
	requests, err := readRequests(p.File)
	return func(ctx context.Context) (any, error) { return sendAll(ctx, p.URL, requests) }, "", err
}

func readRequests(name string) (all []request, err error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read the requests: %w", err)
	}
	defer file.Close()
	in := gob.NewDecoder(bufio.NewReaderSize(file, 1<<20))
	for {
		var r request
		switch err := in.Decode(&r); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("read the requests: %w", err)
		}
		all = append(all, r)
	}
}

// sendAll lets the clients take the requests in turn, each the next as soon as
// it has its answer.
func sendAll(ctx context.Context, url string, requests []request) (done delivery, err error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: httpClients}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var took []time.Duration
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for range httpClients {
		group.Go(func() error {
			var own []time.Duration
			accepted := 0
			for i := next.Add(1) - 1; i < int64(len(requests)); i = next.Add(1) - 1 {
				sent := time.Now()
				if err := sendOne(ctx, client, url, &requests[i]); err != nil {
					return err
				}
				own, accepted = append(own, time.Since(sent)), accepted+requests[i].Events
			}
			mu.Lock()
			defer mu.Unlock()
			took, done.Accepted = append(took, own...), done.Accepted+accepted
			return nil
		})
	}
	err = group.Wait()
	done.Took, done.P50, done.P99 = time.Since(begin), percentile(took, 0.5), percentile(took, 0.99)
	return done, err
}

// sendOne sends a request, and wants every event of it accepted.
func sendOne(ctx context.Context, client *http.Client, url string, r *request) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(r.Body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", r.Bearer)
	request.Header.Set("Content-Type", r.Types)
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("post events: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("post events: %w", err)
	}
	want := fmt.Sprintf(`"accepted":%d,"duplicate":0,"invalid":0}`, r.Events)
	if answer.StatusCode != http.StatusAccepted || !strings.HasSuffix(string(text[max(0, len(text)-len(want)):]), want) {
		return fmt.Errorf("post %d events: status %d: %.300s", r.Events, answer.StatusCode, text)
	}
	return nil
}

// request is what a client sends.
type request struct {
	Types, Bearer string
	Body          []byte
	Events        int
}

// file holds the requests of a form.
func (b *ingestBench) file(form *batchForm) string {
	return filepath.Join(b.dir, strings.ReplaceAll(form.name, " ", "-"))
}

// write makes all requests beforehand, so that making them is not measured.
// Each is of one tenant, as a token is.
func (b *ingestBench) write(form *batchForm) (err error) {
	file, err := os.Create(b.file(form))
	if err != nil {
		return fmt.Errorf("write the requests: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	out := gob.NewEncoder(file)
	for from := 0; from < b.Events; from += form.batch {
		n := min(form.batch, b.Events-from)
		tenant := b.work.tenants[from/form.batch%len(b.work.tenants)]
		token, err := api.SignToken(b.secret, api.Claims{Tenant: tenant, Subject: "bench", Scopes: []string{api.WriteScope}}, time.Hour)
		if err != nil {
			return err
		}
		r := request{Types: form.types, Bearer: "Bearer " + token, Body: []byte(form.begin), Events: n}
		for i := range n {
			if i > 0 {
				r.Body = append(r.Body, form.between...)
			}
			r.Body = b.work.appendJSON(r.Body, from+i)
		}
		r.Body = append(r.Body, form.end...)
		if err := out.Encode(r); err != nil {
			return fmt.Errorf("write the requests: %w", err)
		}
	}
	return nil
}

// appendJSON writes the event of a number as an agent without NATS does.
func (w *workload) appendJSON(b []byte, n int) []byte {
	e := w.event(n)
	return fmt.Appendf(b, `{"agent":"%s","idempotency_key":"%s","action_type":"%s","quantity":%d,"resource_id":"%s","occurred_at":"%s","metadata":%s}`,
		e.Agent, e.IdempotencyKey, e.ActionType, e.Quantity, e.ResourceID, e.OccurredAt.Format(time.RFC3339Nano), e.Metadata)
}
