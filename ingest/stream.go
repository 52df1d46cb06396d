package ingest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// StreamName is the stream that holds every event and every correction.
const StreamName = "USAGE"

// Limits of the stream that are no setting.
const (
	// MaxMessageBytes bounds a stored message with its headers. It leaves room
	// above the largest payload, so that one that is a little too large becomes
	// a dead letter that somebody can read, not a lost publish.
	MaxMessageBytes = 72 << 10

	// DuplicateWindow is how long the server remembers message ids: long enough
	// for a retry after a short break, short enough that "the same bytes twice"
	// stays the exception that Postgres decides.
	DuplicateWindow = 2 * time.Second
)

// Values of StreamConfig when its fields are zero.
const (
	DefaultPartitions = 4
	DefaultMaxAge     = 35 * 24 * time.Hour
)

// StreamConfig is what an operator chooses about the stream.
type StreamConfig struct {
	Partitions int           // how many partitions tenants are dealt to; 0: DefaultPartitions. Acts only when the stream is created
	MaxAge     time.Duration // how long messages are kept; 0: DefaultMaxAge
	MaxBytes   int64         // bytes at which publishing is refused; 0 and -1: no limit
	Replicas   int           // servers that hold a copy, 1 to 5; 0: 1
}

func (c StreamConfig) withDefaults() StreamConfig {
	if c.Partitions == 0 {
		c.Partitions = DefaultPartitions
	}
	if c.MaxAge == 0 {
		c.MaxAge = DefaultMaxAge
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = -1
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	return c
}

// jetstream is the server's form of the configuration.
func (c StreamConfig) jetstream() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        StreamName,
		Description: "usage events and corrections; the evidence, never edited",
		Subjects:    subjects(),
		SubjectTransform: &jetstream.SubjectTransformConfig{
			Source:      transformSource,
			Destination: transformDestination(c.Partitions),
		},
		Storage:            jetstream.FileStorage,
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardNew,
		MaxAge:             c.MaxAge,
		MaxBytes:           c.MaxBytes,
		MaxMsgSize:         MaxMessageBytes,
		Duplicates:         DuplicateWindow,
		Replicas:           c.Replicas,
		DenyDelete:         true,
		DenyPurge:          true,
		AllowDirect:        true,
		AllowAtomicPublish: true,
	}
}

func subjects() []string { return []string{usageToken + ".*.*", adjustToken + ".*.*"} }

// The subject transform puts a partition's number behind the first token, by a
// hash of the tenant's token, so that usage and corrections of one tenant share
// a partition. odometer.PartitionOf computes the same number.
const transformSource = "*.*.*"

func transformDestination(partitions int) string {
	return fmt.Sprintf("{{wildcard(1)}}.{{partition(%d,2)}}.{{wildcard(2)}}.{{wildcard(3)}}", partitions)
}

// partitionsOf reads the number of partitions from a transform's destination.
func partitionsOf(destination string) (int, bool) {
	var n int
	if _, err := fmt.Sscanf(destination, "{{wildcard(1)}}.{{partition(%d,2)}}", &n); err != nil {
		return 0, false
	}
	return n, n > 0 && destination == transformDestination(n)
}

// Stream is the stream as it is, found fit to keep the promises of this package.
type Stream struct {
	jetstream.Stream

	Partitions int // in force: from the stream's transform, whatever was asked for
	Replicas   int // in force; with more than one, a message's time is set before its quorum

	// Differences from what was asked for that break no promise, a sentence each.
	Differences []string
}

// ErrStreamUnfit means that a stream USAGE exists and could lose, change or
// misplace events. Its text names each difference with both values.
var ErrStreamUnfit = errors.New("the stream " + StreamName + " is not fit to hold events")

// EnsureStream creates the stream when there is none, and otherwise checks the
// one that is there. It changes no existing stream: a difference that breaks a
// promise is ErrStreamUnfit, the others are listed in Stream.Differences. Any
// number of processes may call it at once. It needs a JetStream whose server
// answers; the context bounds the wait.
func EnsureStream(ctx context.Context, js jetstream.JetStream, c StreamConfig) (*Stream, error) {
	c = c.withDefaults()
	if c.Partitions < 1 {
		return nil, fmt.Errorf("create stream %s: %d partitions; set at least 1", StreamName, c.Partitions)
	}
	found, err := findOrCreate(ctx, js, c)
	if err != nil {
		return nil, err
	}
	have := found.CachedInfo().Config
	broken, differences := compare(c.jetstream(), have)
	if len(broken) > 0 {
		return nil, fmt.Errorf("%w: %s; mend it with `nats stream edit %s`, or move what it holds to a stream of that form",
			ErrStreamUnfit, strings.Join(broken, "; "), StreamName)
	}
	n, _ := partitionsOf(have.SubjectTransform.Destination)
	return &Stream{Stream: found, Partitions: n, Replicas: have.Replicas, Differences: differences}, nil
}
