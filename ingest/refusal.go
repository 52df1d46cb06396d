package ingest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What Publish returns when trying again at once cannot help. Nothing was
// dropped: the event is still its sender's, to be kept and published later.
var (
	// ErrStreamFull is back-pressure: the stream has reached its limit, or the
	// server the end of its disk.
	ErrStreamFull = errors.New("the stream is full: keep the event and publish it later; an operator must raise its limit or its disk")

	// ErrNoStream means that the server answers and no stream takes the subject.
	ErrNoStream = errors.New("no stream takes the subject: start `odometer run`, which makes the stream " + StreamName + ", on this NATS server and account")

	// ErrNotPermitted means that the connection's credentials may not publish
	// to the subject.
	ErrNotPermitted = errors.New("the server does not permit publishing to the subject: use credentials of this tenant")
)

// verdict says what a failed attempt is worth.
type verdict int

const (
	tryAgain verdict = iota // no answer, or one that will change by itself
	noStream                // nobody listens, perhaps only while a server starts
	full                    // back-pressure
	final                   // the same bytes will always be refused
)

// Codes of the server's refusals (nats-server, server/errors.json).
const (
	codeAccountLimit   = 10002
	codeNoMemory       = 10023
	codeNoStorage      = 10047
	codeStoreFailed    = 10077
	codeIncomplete     = 10176 // an atomic batch lost one of its messages
	codeStillInProcess = 10158 // the same id is being stored right now
)

func judge(err error) verdict {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api):
		return judgeAnswer(api)
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return noStream
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining),
		errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrHeadersNotSupported):
		return final
	}
	return tryAgain
}

func judgeAnswer(api *jetstream.APIError) verdict {
	switch api.ErrorCode {
	case codeAccountLimit, codeNoMemory, codeNoStorage:
		return full
	case codeStoreFailed:
		// One code for all that can go wrong in the store; only the text tells.
		if strings.HasPrefix(api.Description, "maximum ") {
			return full
		}
	case codeStillInProcess, codeIncomplete:
		return tryAgain
	}
	if api.Code >= 500 || api.Code == 429 {
		return tryAgain
	}
	return final
}

// Pauses between attempts: they double from the first to the longest, each
// shortened by up to half, so that many agents do not come back in step.
const (
	firstPause   = 50 * time.Millisecond
	longestPause = 5 * time.Second
)

// patience decides after each failed attempt whether another follows. Repeating
// is safe because the bytes and their id are the same: what the stream stored
// twice is counted once.
type patience struct {
	silence     time.Duration // how long nobody listening is taken for a server that starts
	pause       time.Duration
	silentSince time.Time
}

// next waits before another attempt, or says why there is none. ctx is the
// publish's own; err is what the attempt failed with.
func (p *patience) next(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return p.ended(ctx, err)
	}
	switch judge(err) {
	case final:
		return err
	case full:
		return fmt.Errorf("%w (%w)", ErrStreamFull, err)
	case noStream:
		if p.silentSince.IsZero() {
			p.silentSince = time.Now()
		} else if time.Since(p.silentSince) > p.silence {
			return ErrNoStream
		}
	case tryAgain:
		p.silentSince = time.Time{}
	}
	p.pause = min(max(2*p.pause, firstPause), longestPause)
	wait := time.NewTimer(p.pause - rand.N(p.pause/2))
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return p.ended(ctx, err)
	case <-wait.C:
		return nil
	}
}

func (p *patience) ended(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, ErrNotPermitted) {
		return cause
	}
	if judge(err) == noStream || !p.silentSince.IsZero() {
		return fmt.Errorf("%w (%w)", ErrNoStream, cause)
	}
	return fmt.Errorf("no answer from the stream (%w; last: %v): it may have stored the event; publish the same bytes again, they are counted once", cause, err)
}
