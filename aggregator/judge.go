package aggregator

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"odometer"
	"odometer/billing"
	"odometer/ingest"
)

// deadLetter is a message that is no event, and why.
type deadLetter struct {
	*item
	odometer.Rejection
}

// placed is an event whose period is known.
type placed struct {
	*item
	period time.Time // its start
}

// judged is a batch under the terms of one version. Which keys are new is for
// the database to say.
type judged struct {
	version  int64
	events   []placed // in the order of their keys, repeats in stream order
	homeless []*item  // valid, but no period takes them; unless they repeat an event, dead
	dead     []deadLetter
}

// judge brings a batch under the terms in force. Where an event belongs to a
// period that has not been laid yet, it is laid first.
func (w *worker) judge(ctx context.Context, b *batch) (*judged, error) {
	for {
		if err := w.rules.prepare(ctx, w.a.Pool, b.items, w.a.Metrics); err != nil {
			return nil, err
		}
		j, due := w.rules.judge(b)
		if len(due) == 0 {
			j.sort()
			return j, nil
		}
		if err := w.layPeriods(ctx, due); err != nil {
			return nil, err
		}
		w.rules.forget()
	}
}

// layPeriods rolls over the tenants whose events are the first of a new period.
func (w *worker) layPeriods(ctx context.Context, due map[uuid.UUID]time.Time) error {
	var tenants []uuid.UUID
	var until time.Time
	for tenant, occurred := range due {
		tenants = append(tenants, tenant)
		if occurred.After(until) {
			until = occurred
		}
	}
	return billing.RollOver(ctx, w.a.Pool, tenants, w.a.Now(), until)
}

// judge sorts a batch's messages; due are tenants whose next period must be
// laid before that can be done, with the latest time it is needed for.
func (t *ruleCache) judge(b *batch) (j *judged, due map[uuid.UUID]time.Time) {
	j = &judged{version: t.version, events: make([]placed, 0, len(b.items))}
	for i := range b.items {
		it := &b.items[i]
		if r := t.reject(it); r != nil {
			j.dead = append(j.dead, deadLetter{it, *r})
			continue
		}
		e := &it.event
		tenant := t.tenants[e.Tenant]
		if tenant == nil {
			j.homeless = append(j.homeless, it)
			continue
		}
		period := it.place(tenant.Periods)
		switch {
		case period != nil:
			j.events = append(j.events, placed{it, period.Start})
		case tenant.Due(e.OccurredAt):
			if due == nil {
				due = map[uuid.UUID]time.Time{}
			}
			if e.OccurredAt.After(due[e.Tenant]) {
				due[e.Tenant] = e.OccurredAt
			}
		default:
			j.homeless = append(j.homeless, it)
		}
	}
	return j, due
}

// reject judges by the catalogue, then by age: the contract's order.
func (t *ruleCache) reject(it *item) *odometer.Rejection {
	if it.reject != nil {
		return it.reject
	}
	e := &it.event
	agent := t.agents[e.Agent]
	switch {
	case agent == nil:
		return &odometer.Rejection{Reason: odometer.UnknownAgent,
			Detail: fmt.Sprintf("agent %q is not in the catalogue", e.Agent)}
	case e.Kind == odometer.Usage && !agent.Takes(e.Action):
		return &odometer.Rejection{Reason: odometer.UnknownAction,
			Detail: fmt.Sprintf("action_type %q is not an action of agent %s, which takes %s", e.Action, e.Agent, strings.Join(agent.Actions, ", "))}
	}
	return ingest.CheckAge(e)
}

// sort brings the events into the order of the primary key, so that writers
// meet in one order and neighbours share a page; of one key the first in the
// stream comes first, and so it is the one that is inserted.
func (j *judged) sort() {
	slices.SortFunc(j.events, func(a, b placed) int {
		if c := bytes.Compare(a.event.Tenant[:], b.event.Tenant[:]); c != 0 {
			return c
		}
		if c := bytes.Compare(a.id[:], b.id[:]); c != 0 {
			return c
		}
		return int(a.seq - b.seq)
	})
}

// homelessness tells why no period takes an event.
func (t *ruleCache) homelessness(e *odometer.Event) string {
	tenant := t.tenants[e.Tenant]
	at := e.OccurredAt.Format(time.RFC3339Nano)
	switch {
	case tenant == nil:
		return fmt.Sprintf("tenant %s has no subscription: set one with: odometer subscription set", e.Tenant)
	case len(tenant.Periods) == 0:
		return fmt.Sprintf("occurred_at %s lies in no billing period of the last 90 days", at)
	}
	first, last := tenant.Periods[0], tenant.Periods[len(tenant.Periods)-1]
	for _, p := range tenant.Periods {
		if p.Contains(e.OccurredAt) {
			return fmt.Sprintf("occurred_at %s lies in the closed period [%s, %s) and no later one is open",
				at, p.Start.Format(time.RFC3339), p.End.Format(time.RFC3339))
		}
	}
	return fmt.Sprintf("occurred_at %s lies in no billing period: they run from %s to %s, the subscription is %s",
		at, first.Start.Format(time.RFC3339), last.End.Format(time.RFC3339), tenant.Subscription.Status)
}
