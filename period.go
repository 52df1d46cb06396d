package odometer

import (
	"time"

	"github.com/google/uuid"
)

// Period is a billing period of one tenant: half-open, [Start, End), in UTC.
type Period struct {
	Start, End time.Time
	PlanID     string    // "" without a plan
	Trial      bool      // its usage stays free
	ClosedAt   *Position // the partition's position at which it was closed, nil while it is open
}

// Contains reports whether t lies in the period.
func (p *Period) Contains(t time.Time) bool { return !t.Before(p.Start) && t.Before(p.End) }

// OpenAt reports whether the period could still take a message at that
// position: a closed period never changes, but a message from before its close
// belongs to it however often it is read.
func (p *Period) OpenAt(at Position) bool { return p.ClosedAt == nil || !at.After(*p.ClosedAt) }

// PeriodFor finds the period that an event belongs to, given all periods of its
// tenant in order. It is a function of the event's own time and position: the
// period of its time when that was still open there, else the first later one
// that was (the event is late then: it occurred before the period's start).
// It is nil when its time lies in no period or no later one was open.
func PeriodFor(periods []Period, occurredAt time.Time, at Position) *Period {
	for i := range periods {
		if !periods[i].Contains(occurredAt) {
			continue
		}
		for j := i; j < len(periods); j++ {
			if periods[j].OpenAt(at) {
				return &periods[j]
			}
		}
	}
	return nil
}

// Status is the state of a subscription.
type Status string

const (
	Trial    Status = "trial"
	Active   Status = "active"
	PastDue  Status = "past_due"
	Canceled Status = "canceled"
	Expired  Status = "expired"
)

// Subscription is a tenant's plan and status, and the rule by which its periods
// follow one another.
type Subscription struct {
	Tenant             uuid.UUID
	PlanID             string // "" without a plan
	Status             Status
	Interval           Interval
	Anchor             time.Time  // see Interval.Anchor
	TrialEndsAt        *time.Time // nil: no end is known
	StripeCustomer     string
	StripeSubscription string
}

// Rolls reports whether a period of the subscription is followed by another by
// itself. A late payment does not stop it, an end does.
func (s *Subscription) Rolls() bool {
	return s.Interval != Once && (s.Status == Trial || s.Status == Active || s.Status == PastDue)
}

// onTrial reports whether usage at t is free.
func (s *Subscription) onTrial(t time.Time) bool {
	return s.Status == Trial && (s.TrialEndsAt == nil || t.Before(*s.TrialEndsAt))
}

// lapsesAt reports whether the subscription is at its end at t: a trial is
// over and no plan follows.
func (s *Subscription) lapsesAt(t time.Time) bool {
	return s.Status == Trial && !s.onTrial(t) && s.PlanID == ""
}

// FirstPeriods is the first period of a subscription, or two when a trial ends
// inside it: the trial's and the rest.
func (s *Subscription) FirstPeriods(start, end time.Time) []Period {
	cut := end
	if s.onTrial(start) && s.TrialEndsAt != nil && s.TrialEndsAt.Before(end) {
		cut = *s.TrialEndsAt
	}
	periods := []Period{s.period(start, cut)}
	if cut.Before(end) && !s.lapsesAt(cut) {
		periods = append(periods, s.period(cut, end))
	}
	return periods
}

func (s *Subscription) period(start, end time.Time) Period {
	return Period{Start: start, End: end, PlanID: s.PlanID, Trial: s.onTrial(start)}
}

// Roll returns the periods that follow one ending at end, up to and including
// the one that contains the time until. It is empty when none is due or the subscription does not roll.
func (s *Subscription) Roll(end, until time.Time) []Period {
	var periods []Period
	for s.Rolls() && !end.After(until) && !s.lapsesAt(end) {
		next, _ := s.Interval.Next(s.Anchor, end)
		if s.onTrial(end) && s.TrialEndsAt != nil && s.TrialEndsAt.Before(next) {
			next = *s.TrialEndsAt
		}
		periods = append(periods, s.period(end, next))
		end = next
	}
	return periods
}

// StatusAt is the status at now: the stored one, except that a trial that is
// over turns into the paid subscription, or expires without a plan.
func (s *Subscription) StatusAt(now time.Time) Status {
	switch {
	case s.Status != Trial || s.onTrial(now):
		return s.Status
	case s.PlanID == "":
		return Expired
	default:
		return Active
	}
}
