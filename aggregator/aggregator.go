package aggregator

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/ingest"
)

// Options say what to read, where to count and how.
type Options struct {
	Pool      *pgxpool.Pool // at least a connection per partition, and two
	NATS      *nats.Conn
	Stream    ingest.StreamConfig
	BatchSize int // messages in one transaction at most; 0 is DefaultBatchSize
	Log       *slog.Logger
	Metrics   *Metrics
	Now       func() time.Time // for rolling periods over; nil is time.Now
}

// DefaultBatchSize is where larger batches stopped being faster.
const DefaultBatchSize = 5000

// Pauses between attempts while Postgres or NATS is away.
const (
	shortestPause = 100 * time.Millisecond
	longestPause  = 5 * time.Second
	standbyPause  = time.Second // between looks for a free partition
)

// ErrUnfit marks what waiting does not heal: the stream or the schema is not
// what this program was told. The text says what to do.
var ErrUnfit = errors.New("cannot aggregate")

// Aggregator reads the stream into the books until it is told to stop.
type Aggregator struct {
	Options
	js   jetstream.JetStream
	said map[string]bool // differences of the stream that were logged
}

// New prepares an aggregator; nothing is connected or read before Run.
func New(o Options) (*Aggregator, error) {
	if o.BatchSize == 0 {
		o.BatchSize = DefaultBatchSize
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	js, err := jetstream.New(o.NATS)
	if err != nil {
		return nil, err
	}
	return &Aggregator{Options: o, js: js, said: map[string]bool{}}, nil
}

// Run aggregates until ctx ends, then finishes the batches that are being
// committed and returns nil. When Postgres or NATS is away it waits with
// growing pauses and goes on by itself. It returns an error only for what
// waiting does not heal (ErrUnfit).
func (a *Aggregator) Run(ctx context.Context) error {
	pause, said := shortestPause, ""
	for {
		began := time.Now()
		err := a.attend(ctx, func() {
			if said != "" {
				a.Log.Info("aggregator reads again", "after", said)
			}
			said = ""
		})
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrUnfit) || errors.Is(err, ingest.ErrStreamUnfit) {
			return err
		}
		if time.Since(began) > longestPause {
			pause = shortestPause
		}
		if now := trouble(err); now != said {
			a.Log.Warn("aggregator waits", "for", now, "err", err)
			said = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
}

// attend holds a lease on partitions and reads for them, session after
// session, until something fails.
func (a *Aggregator) attend(ctx context.Context, reading func()) error {
	lease, err := openLease(ctx, a.Pool)
	if err != nil {
		return err
	}
	defer lease.close()
	for ctx.Err() == nil {
		err := a.session(ctx, lease, reading)
		if !errors.Is(err, errGained) {
			return err
		}
	}
	return nil
}
