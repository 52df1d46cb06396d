package ingest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A server forgets the name of a stream that is deleted before it has moved
// the files away. A stream that is made in between fails, or loses its files.
const (
	removalPause = 250 * time.Millisecond // between two looks, and two attempts
	removalLimit = 5 * time.Second        // after which a failure has another cause
)

// codeStreamCreate is the server's code for what no other one fits, such as
// files that cannot be made.
const codeStreamCreate jetstream.ErrorCode = 10049

// findOrCreate creates a stream that is missing twice, and looks again when
// another process was faster.
func findOrCreate(ctx context.Context, js jetstream.JetStream, c StreamConfig) (jetstream.Stream, error) {
	found, err := js.Stream(ctx, StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err := pause(ctx, removalPause); err != nil {
			return nil, fmt.Errorf("create stream %s: %w", StreamName, err)
		}
		found, err = js.Stream(ctx, StreamName)
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		found, err = create(ctx, js, c)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return nil, fmt.Errorf("create stream %s: %w; no other stream may take %s, %d replicas need as many servers, and their storage must take files (see the server's log)",
				StreamName, err, strings.Join(subjects(), " or "), c.Replicas)
		}
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		found, err = js.Stream(ctx, StreamName)
	}
	if err != nil {
		return nil, fmt.Errorf("look for stream %s: %w; the NATS server must run, with JetStream on for this account", StreamName, err)
	}
	return found, nil
}

func create(ctx context.Context, js jetstream.JetStream, c StreamConfig) (jetstream.Stream, error) {
	for began := time.Now(); ; {
		made, err := js.CreateStream(ctx, c.jetstream())
		var refused *jetstream.APIError
		transient := errors.As(err, &refused) && refused.ErrorCode == codeStreamCreate && time.Since(began) < removalLimit
		if !transient || pause(ctx, removalPause) != nil {
			return made, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
