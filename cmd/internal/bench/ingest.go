package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/nats-io/nats.go"

	"odometer/api"
	"odometer/cmd/internal/app"
	"odometer/cmd/internal/cli"
	"odometer/ingest/httpingest"
	"odometer/ingest/publisher"
)

// peerRate is how many events a second the nearest peer reached on two cores,
// with inserts alone.
const peerRate = 12_000

// httpClients each have a connection that they keep.
const httpClients = 16

// batchForm is how clients send events over HTTP.
type batchForm struct {
	name    string
	batch   int    // events of a request
	types   string // Content-Type
	begin   string // of a body
	between string
	end     string
	counted bool // an aggregator counts meanwhile
}

// batchForms are what is compared, in the order of the table.
var batchForms = []batchForm{
	{name: "lines, 100 a request", batch: 100, types: "application/x-ndjson", between: "\n", counted: true},
	{name: "array, 100 a request", batch: 100, types: "application/json", begin: "[", between: ",", end: "]", counted: true},
	{name: "lines, 500 a request", batch: 500, types: "application/x-ndjson", between: "\n", counted: true},
	{name: "array, 500 a request", batch: 500, types: "application/json", begin: "[", between: ",", end: "]", counted: true},
	{name: "lines, 500, not counted", batch: 500, types: "application/x-ndjson", between: "\n"},
}

// ingestRun is what one form came to in one round.
type ingestRun struct {
	measurement // children: handler, clients, aggregator
	delivery
	events  int
	counted time.Duration // from the first request until the last event is counted; 0 where nothing counts
}

func (r ingestRun) rate(took time.Duration) float64 {
	if took == 0 {
		return 0
	}
	return float64(r.events) / took.Seconds()
}

func (r ingestRun) ackedRate() float64 { return r.rate(r.Took) }

func (r ingestRun) countedRate() float64 { return r.rate(r.counted) }

// ingestBench gives each run a stream of its own, and empty tables.
type ingestBench struct {
	*environment
	work   *workload
	d      *database
	secret []byte
	runs   int
}

func benchIngest(ctx context.Context, e *environment, report *report) (err error) {
	b := &ingestBench{environment: e, work: newWorkload(tenantCount), secret: make([]byte, 32)}
	if _, err := rand.Read(b.secret); err != nil {
		return err
	}
	if b.d, err = e.openDatabase(ctx, "ingest", amplePlan, b.work.tenants); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.d.drop(context.WithoutCancel(ctx))) }()
	e.terminal.Log.Info("writing requests", "events", e.Events)
	for i := range batchForms {
		if err := b.write(&batchForms[i]); err != nil {
			return err
		}
	}
	runs := make([][]ingestRun, len(batchForms))
	for round := range e.Rounds {
		for i := range batchForms {
			r, err := b.run(ctx, &batchForms[i])
			if err != nil {
				return fmt.Errorf("%s: %w", batchForms[i].name, err)
			}
			runs[i] = append(runs[i], r)
			e.terminal.Log.Info("ingest", "round", round+1, "variant", batchForms[i].name,
				"acknowledged_per_second", int(r.ackedRate()), "counted_per_second", int(r.countedRate()), "p99", r.P99)
		}
	}
	for i := range batchForms {
		report.Ingest = append(report.Ingest, ingestLineOf(&batchForms[i], runs[i]))
	}
	return nil
}

// run sends everything once, and waits until it is counted.
func (b *ingestBench) run(ctx context.Context, form *batchForm) (r ingestRun, err error) {
	if err := b.d.clear(ctx); err != nil {
		return r, err
	}
	b.runs++
	s, err := b.openStream(ctx, fmt.Sprintf("ingest-%d", b.runs))
	if err != nil {
		return r, err
	}
	defer s.discard()
	var children []*process
	defer func() {
		for _, p := range children {
			err = errors.Join(err, p.stop())
		}
	}()
	add := func(role string, params childParams) (*process, error) {
		p, err := b.start(ctx, role, params)
		if err == nil {
			children = append(children, p)
		}
		return p, err
	}
	natsURL := s.server.ClientURL()
	handler, err := add("handler", childParams{NATSURL: natsURL, Secret: hex.EncodeToString(b.secret)})
	if err != nil {
		return r, err
	}
	clients, err := add("clients", childParams{File: b.file(form), URL: handler.ready})
	if err != nil {
		return r, err
	}
	if err := handler.begin(); err != nil {
		return r, err
	}
	if form.counted {
		counter, err := add("aggregator", childParams{DatabaseURL: b.d.url, NATSURL: natsURL})
		if err != nil {
			return r, err
		}
		if err := errors.Join(counter.begin(), b.d.waitUntilRead(ctx)); err != nil {
			return r, err
		}
	}
	r.events = b.Events
	r.measurement, err = b.measure(func() error { return b.send(ctx, clients, form, &r) }, children...)
	if err != nil || !form.counted {
		return r, err
	}
	return r, b.d.verify(ctx, totals{events: b.Events, units: b.work.units(b.Events)})
}

// send lets the clients send everything, and takes the times.
func (b *ingestBench) send(ctx context.Context, clients *process, form *batchForm, r *ingestRun) error {
	begin := time.Now()
	if err := clients.do(&r.delivery); err != nil {
		return err
	}
	if r.Accepted != b.Events {
		return fmt.Errorf("%d events were sent, %d were accepted", b.Events, r.Accepted)
	}
	if !form.counted {
		return nil
	}
	if err := b.d.waitForMessages(ctx, b.Events); err != nil {
		return err
	}
	r.counted = time.Since(begin)
	return nil
}

// prepareHandler serves the API, and says where.
func prepareHandler(_ context.Context, t *cli.Terminal, p childParams) (childWork, string, error) {
	nc, err := nats.Connect(p.NATSURL)
	if err != nil {
		return nil, "", fmt.Errorf("connect to NATS: %w", err)
	}
	pub, err := publisher.New(nc)
	if err != nil {
		return nil, "", err
	}
	secret, err := hex.DecodeString(p.Secret)
	if err != nil {
		return nil, "", fmt.Errorf("read the tokens' secret: %w", err)
	}
	keys, err := api.KeysFromSecret(secret, api.Expect{})
	if err != nil {
		return nil, "", err
	}
	// Every request is logged, as in production, to where nobody reads it.
	handler := api.New(api.Options{Keys: keys, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Registerer: app.NewRegistry()}) //nolint:sloglint // formatting the log is part of the cost
	httpingest.Register(handler, httpingest.Options{Publisher: pub, Log: t.Log})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", fmt.Errorf("serve the API: %w", err)
	}
	return func(ctx context.Context) (any, error) {
		defer nc.Close()
		return nil, app.Serve(ctx, l, handler.Handler())
	}, fmt.Sprintf("http://%s%s", l.Addr(), httpingest.Path), nil
}

// ingestLine is a form's line in the table.
type ingestLine struct {
	Variant        string    `json:"contestant" column:"ingest by HTTP"`
	Counted        float64   `json:"counted_per_second" column:"counted/s;thousands"` // acknowledged and counted; 0: nothing counts
	Acked          float64   `json:"acknowledged_per_second" column:"acknowledged/s;thousands"`
	OfPeer         float64   `json:"of_peer" column:"x 12 000;%.1f"` // counted, or acknowledged where nothing counts, to the peer's 12000
	P50            float64   `json:"request_p50_ms" column:"request p50 ms;%.1f"`
	P99            float64   `json:"request_p99_ms" column:"p99;%.1f"`
	CPUMicros      float64   `json:"cpu_us_per_event" column:"CPU µs/event;%.1f"` // of all; 0: not known
	SendMicros     float64   `json:"clients_cpu_us_per_event" column:"clients;%.1f"`
	TakeMicros     float64   `json:"handler_cpu_us_per_event" column:"handler;%.1f"`
	NATSMicros     float64   `json:"nats_cpu_us_per_event" column:"NATS;%.1f"`
	CountMicros    float64   `json:"aggregator_cpu_us_per_event" column:"aggregator;%.1f"`
	PostgresMicros float64   `json:"postgres_cpu_us_per_event" column:"Postgres;%.1f"`
	PeakMemory     int64     `json:"handler_peak_memory_bytes" column:"peak memory;memory"` // over all rounds
	Rounds         []float64 `json:"rounds"`                                                // counted, or acknowledged, per second
}

const ingestNote = `POST /api/v1/events with events of about 350 bytes, from 16 clients on connections that they keep, 1 000 tenants; the

token is checked with each request. Counted per second: from the first request until the last event is in its counter.
Clients, handler, NATS and aggregator are a process each and share this machine with Postgres; requests were made
before. 12 000 events a second, inserted and not counted, is what the nearest peer reached on two cores. Peak memory is
the handler's. Counts were verified after every round.`

func ingestLineOf(form *batchForm, all []ingestRun) ingestLine {
	micros := func(of func(ingestRun) time.Duration) float64 {
		return median(all, func(r ingestRun) float64 { return float64(of(r).Nanoseconds()) / 1e3 / float64(r.events) })
	}
	child := func(i int) float64 {
		return micros(func(r ingestRun) time.Duration {
			if i < len(r.children) {
				return r.children[i]
			}
			return 0
		})
	}
	figure := ingestRun.countedRate
	if !form.counted {
		figure = ingestRun.ackedRate
	}
	line := ingestLine{
		Variant: form.name, Acked: median(all, ingestRun.ackedRate), Counted: median(all, ingestRun.countedRate),
		OfPeer:     median(all, figure) / peerRate,
		P50:        median(all, func(r ingestRun) float64 { return milliseconds(r.P50) }),
		P99:        median(all, func(r ingestRun) float64 { return milliseconds(r.P99) }),
		CPUMicros:  micros(func(r ingestRun) time.Duration { return r.cpu() }),
		TakeMicros: child(0), SendMicros: child(1), CountMicros: child(2),
		NATSMicros:     micros(func(r ingestRun) time.Duration { return r.here }),
		PostgresMicros: micros(func(r ingestRun) time.Duration { return r.postgres }),
	}
	for _, r := range all {
		line.PeakMemory = max(line.PeakMemory, r.measurement.peak)
		line.Rounds = append(line.Rounds, figure(r))
	}
	return line
}
