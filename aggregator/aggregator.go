// Package aggregator is the live loop between the stream and Postgres: it reads
// every message once, in order, and has it counted by package apply.
//
// # Why each event counts exactly once
//
// The reader's position in the stream is a row in Postgres, one per partition. A
// batch is one transaction: it advances that row from where this reader stands,
// inserts the events whose keys are new, adds what was really inserted to the
// counters, and records what became of every message. Position, events and
// counters therefore move together or not at all. The stream keeps no memory of
// us (no durable consumer, no acknowledgements, no redelivery), so there is
// nothing that could disagree with the row.
//
// What each crash costs:
//
//	after the fetch, before the commit   nothing was stored; the next reader fetches it again
//	during the commit                    Postgres decides; whoever reads the position next knows
//	commit done, answer lost             the position says that it is done
//	after the commit                     the next reader begins after it
//
// Two readers of one partition cannot both count: both advance the row from
// the same position, one of them succeeds, the other finds it moved, drops what
// it holds and begins again. The advisory lock only makes that rare.
//
// # How it flows
//
//	lease      holds the partitions' advisory locks                            (session.go)
//	attach     checks that the stream is the one that was read                 (attach.go)
//	session    runs the parts below until something fails, then begins again   (session.go)
//	reader     reads for all partitions, dispatches messages to workers        (reader.go)
//	collector  a worker's first half: decodes, gathers the next batch          (collect.go)
//	committer  its second half: has it classified and counted, commits         (commit.go)
//
// While a batch commits, the next one is fetched and decoded. Each channel is
// bounded, so a slow database slows the reading and memory stays flat.
//
// Replays and retries of dead letters count by the same package apply and under
// the same locks, but neither moves a position nor writes to `batches`: there a
// message stays what it was when it was read. The dead of all batches are the
// rows of dead_letters in whatever state, and an event that came from a dead
// letter lies at that letter's position.
package aggregator

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/aggregator/position"
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
	standbyPause  = time.Second // between two tries for a free partition
)

// ErrUnfit marks errors that waiting does not fix: the stream or the schema is
// not what this program was configured for. The text says what to do.
var ErrUnfit = errors.New("cannot aggregate")

// Reasons for which a session begins again.
var (
	errPartitionFreed = errors.New("a further partition became free")
	errStream         = errors.New("the stream is not the one that was attached")
)

// Aggregator reads the stream and counts it until it is stopped.
type Aggregator struct {
	Options
	js     jetstream.JetStream
	logged map[string]bool // differences of the stream
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
	return &Aggregator{Options: o, js: js, logged: map[string]bool{}}, nil
}

// Run aggregates until ctx ends, then finishes the batches that are being
// committed and returns nil. When Postgres or NATS is away it waits with
// growing pauses and goes on by itself. It returns an error only for what
// waiting does not fix (ErrUnfit).
func (a *Aggregator) Run(ctx context.Context) error {
	retry, waitedFor := odometer.Backoff{Min: shortestPause, Max: longestPause}, ""
	for ctx.Err() == nil {
		began := time.Now()
		err := a.runSessions(ctx, func() {
			if waitedFor != "" {
				a.Log.Info("aggregator reads again", "after", waitedFor)
			}
			waitedFor = ""
		})
		select {
		case <-ctx.Done():
			return nil
		default:
		}
		if errors.Is(err, ErrUnfit) || errors.Is(err, ingest.ErrStreamUnfit) {
			return err
		}
		if time.Since(began) > longestPause {
			retry.Reset()
		}
		if reason := reasonOf(err); reason != waitedFor { // once, not at each attempt
			a.Log.Warn("aggregator waits", "reason", reason, "err", err)
			waitedFor = reason
		}
		_ = retry.Wait(ctx) // an error means that ctx has ended
	}
	return nil
}

// reasonOf names what a session waits for.
func reasonOf(err error) string {
	switch {
	case errors.As(err, new(*position.StreamError)), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, jetstream.ErrNoStreamResponse):
		return "NATS"
	case errors.Is(err, position.ErrMoved):
		return "position moved by another reader"
	default:
		return "Postgres"
	}
}

// natsError marks a failure of the stream, as against the database.
func natsError(err error) error { return &position.StreamError{Err: err} }

// runSessions holds a lease on partitions and reads for them, session after
// session, until something fails.
func (a *Aggregator) runSessions(ctx context.Context, reading func()) error {
	lease, err := openLease(ctx, a.Pool)
	if err != nil {
		return err
	}
	defer lease.close()
	for ctx.Err() == nil {
		err := a.session(ctx, lease, reading)
		if !errors.Is(err, errPartitionFreed) {
			return err
		}
	}
	return nil
}
