package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"odometer/api"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest/httpingest"
	"odometer/ingest/publisher"
)

// What a process of the ingest race can be.
const (
	takeRole = "take" // the handler, behind the door and a socket
	sendRole = "send" // the clients
)

// mails reports whether the contestant is one of the ingest race.
func (c *contestant) mails() bool { return c.Role == takeRole || c.Role == sendRole }

// runMailing takes part in the ingest race.
func (c *contestant) runMailing(ctx context.Context, t *cli.Terminal) error {
	if c.Role == sendRole {
		return c.send(ctx, t)
	}
	return c.take(ctx, t)
}

// tell says a word to the contestant.
func (r *runner) tell(word string) error {
	if _, err := fmt.Fprintln(r.in, word); err != nil {
		return fmt.Errorf("tell a contestant: %w", err)
	}
	return nil
}

// take serves the API. It says ready; told the tokens' secret, it says where
// it is, and serves until its input ends.
func (c *contestant) take(ctx context.Context, t *cli.Terminal) error {
	nc, err := nats.Connect(c.NATSURL)
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	defer nc.Close()
	pub, err := publisher.New(nc)
	if err != nil {
		return err
	}
	fmt.Fprintln(t.Out, readyWord)
	words := bufio.NewScanner(os.Stdin)
	if !words.Scan() {
		return nil // the races were given up
	}
	secret, err := hex.DecodeString(words.Text())
	if err != nil {
		return fmt.Errorf("read the tokens' secret: %w", err)
	}
	keys, err := api.KeysFromSecret(secret, api.Expect{})
	if err != nil {
		return err
	}
	// Every request is logged, as in life, to where nobody reads it.
	door := api.New(api.Options{Keys: keys, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Registerer: app.NewRegistry()})
	httpingest.Register(door, httpingest.Options{Publisher: pub, Log: t.Log})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("serve the API: %w", err)
	}
	fmt.Fprintf(t.Out, "http://%s%s\n", l.Addr(), httpingest.Path)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		words.Scan() // until the races want no more
		cancel()
	}()
	return app.Serve(ctx, l, door.Handler())
}

// sendClients are the clients, each with a connection that it keeps.
const sendClients = 16

// delivery is what the clients have done.
type delivery struct {
	Took     time.Duration `json:"took"`
	P50      time.Duration `json:"p50"` // of a request
	P99      time.Duration `json:"p99"`
	Accepted int           `json:"accepted"`
}

// send is all clients. It says ready twice: the second time when it has read
// the file of requests that it is told. Told where the API is, it begins, and
// says what came of it.
func (c *contestant) send(ctx context.Context, t *cli.Terminal) error {
	fmt.Fprintln(t.Out, readyWord)
	words := bufio.NewScanner(os.Stdin)
	if !words.Scan() {
		return nil // the races were given up
	}
	requests, err := readRequests(words.Text())
	if err != nil {
		return err
	}
	fmt.Fprintln(t.Out, readyWord)
	if !words.Scan() {
		return nil
	}
	done, err := sendAll(ctx, words.Text(), requests)
	if err != nil {
		return err
	}
	said, err := json.Marshal(done)
	if err != nil {
		return err
	}
	fmt.Fprintf(t.Out, "%s\n", said)
	words.Scan() // until the races want no more
	return nil
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
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: sendClients}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var took []time.Duration
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for range sendClients {
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
	asked, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(r.Body))
	if err != nil {
		return err
	}
	asked.Header.Set("Authorization", r.Bearer)
	asked.Header.Set("Content-Type", r.Types)
	answer, err := client.Do(asked)
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
