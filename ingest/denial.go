package ingest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"

	"github.com/nats-io/nats.go"
)

// denials hears what the server says to a publish without permission. It sends
// no answer to the publish itself, which would wait for ever; the refusal comes
// only to the connection's error handler.
type denials struct {
	mu      sync.Mutex
	last    int
	waiting map[int]waiter
}

// waiter is a publish under way.
type waiter struct {
	subjects map[string]struct{}
	cancel   context.CancelCauseFunc
}

// hear puts d in front of the connection's error handler.
func (d *denials) hear(nc *nats.Conn) {
	before := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			d.tell(err)
		}
		if before != nil {
			before(nc, sub, err)
		}
	})
}

var deniedSubject = regexp.MustCompile(`Publish to "([^"]+)"`)

func (d *denials) tell(err error) {
	match := deniedSubject.FindStringSubmatch(err.Error())
	if match == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.waiting {
		if _, ok := w.subjects[match[1]]; ok {
			w.cancel(fmt.Errorf("%w (%s)", ErrNotPermitted, match[1]))
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
	d.waiting[number] = waiter{subjects, cancel}
	return watched, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.waiting, number)
		cancel(nil)
	}
}
