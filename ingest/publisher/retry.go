package publisher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
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
	ErrNoStream = errors.New("no stream takes the subject: start `odometer run`, which makes the stream USAGE, on this NATS server and account")

	// ErrNotPermitted means that the connection's credentials may not publish
	// to the subject.
	ErrNotPermitted = errors.New("the server does not permit publishing to the subject: use credentials of this tenant")
)

// failure is what kind of failure ended an attempt.
type failure int

const (
	tryAgain failure = iota // no answer, or one that will change by itself
	noStream                // no stream listens, perhaps only while a server starts
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

func classify(err error) failure {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api):
		return classifyAnswer(api)
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return noStream
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining),
		errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrHeadersNotSupported):
		return final
	}
	return tryAgain
}

func classifyAnswer(api *jetstream.APIError) failure {
	switch api.ErrorCode {
	case codeAccountLimit, codeNoMemory, codeNoStorage:
		return full
	case codeStoreFailed:
		// One code for all that can go wrong in the store; only the text differs.
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

// retry decides after each failed attempt whether another follows. Repeating is
// safe because the bytes and their id are the same: what the stream stored
// twice is counted once.
type retry struct {
	silence     time.Duration // how long a server without the stream is taken for one that starts
	pause       time.Duration
	silentSince time.Time
}

// next waits before another attempt, or says why there is none. ctx is the
// publish's own; err is what the attempt failed with.
func (r *retry) next(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return r.ended(ctx, err)
	}
	switch classify(err) {
	case final:
		return err
	case full:
		return fmt.Errorf("%w (%w)", ErrStreamFull, err)
	case noStream:
		if r.silentSince.IsZero() {
			r.silentSince = time.Now()
		} else if time.Since(r.silentSince) > r.silence {
			return ErrNoStream
		}
	case tryAgain:
		r.silentSince = time.Time{}
	}
	r.pause = min(max(2*r.pause, firstPause), longestPause)
	wait := time.NewTimer(r.pause - rand.N(r.pause/2))
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return r.ended(ctx, err)
	case <-wait.C:
		return nil
	}
}

func (r *retry) ended(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, ErrNotPermitted) {
		return cause
	}
	if classify(err) == noStream || !r.silentSince.IsZero() {
		return fmt.Errorf("%w (%w)", ErrNoStream, cause)
	}
	return fmt.Errorf("no answer from the stream (%w; last: %s): it may have stored the event; publish the same bytes again, they are counted once", cause, err.Error())
}

// denials ends a publish that has no permission. The server sends no answer to
// the publish itself, which would wait for ever; the refusal comes only to the
// connection's error handler.
type denials struct {
	mu        sync.Mutex
	last      int
	publishes map[int]publish // under way
}

type publish struct {
	subjects map[string]struct{}
	cancel   context.CancelCauseFunc
}

// handleErrors puts d in front of the connection's error handler.
func (d *denials) handleErrors(nc *nats.Conn) {
	before := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			d.end(err)
		}
		if before != nil {
			before(nc, sub, err)
		}
	})
}

var deniedSubject = regexp.MustCompile(`Publish to "([^"]+)"`)

func (d *denials) end(err error) {
	match := deniedSubject.FindStringSubmatch(err.Error())
	if match == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.publishes {
		if _, ok := p.subjects[match[1]]; ok {
			p.cancel(fmt.Errorf("%w (%s)", ErrNotPermitted, match[1]))
		}
	}
}

// watch returns a context that ends with ErrNotPermitted as its cause when the
// server denies one of the subjects. Call stop when the publish is done.
func (d *denials) watch(ctx context.Context, batches ...*batch) (watched context.Context, stop func()) {
	subjects := make(map[string]struct{}, 1)
	before := ""
	for _, b := range batches {
		for i := range b.messages {
			if subject := b.messages[i].subject; subject != before { // most are as the one before
				subjects[subject] = struct{}{}
				before = subject
			}
		}
	}
	watched, cancel := context.WithCancelCause(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	number := d.last
	d.publishes[number] = publish{subjects, cancel}
	return watched, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.publishes, number)
		cancel(nil)
	}
}
