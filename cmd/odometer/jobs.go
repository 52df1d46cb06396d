package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// work is what a job does at a slot.
type work func(ctx context.Context, s slot) error

// job is scheduled work. River runs it, from a queue of its own name: to pause
// the job is to pause its queue. What it does must be safe to do twice.
type job struct {
	name   string
	every  time.Duration // 0: only at a time of the day
	at     string        // its time of the day in UTC, as "02:00"; "": none
	within time.Duration // after this it is ended and taken up again; 0 for an hour
	partOf string        // the job that people know it as; "" when it stands for itself
	run    work
}

// The jobs, and when they are due. Their functions come by name, because they
// need settings; without its function a job is not run.
func jobTable(does map[string]work) []job {
	table := []job{
		{name: "rollover", every: time.Minute},
		{name: "report", every: time.Minute, at: "01:00"},
		{name: "verify", every: time.Hour},
		{name: "reconcile", at: "03:00", within: 6 * time.Hour},
		{name: "deadletters_retry", every: time.Minute, partOf: "rollover"}, // what they lacked may have come
		{name: "alerts", every: time.Minute},
		{name: "alerts_delivery", every: time.Minute, partOf: "alerts"}, // its own, so that Slack delays no look
		{name: "retention", at: "02:00"},
		{name: "subscriptions", every: time.Hour},
	}
	for i := range table {
		table[i].run = does[table[i].name]
	}
	return table
}

// slot is one time at which a job is due.
type slot struct {
	at     time.Time
	daily  bool // its time of the day, not one of its intervals
	byHand bool // somebody wants it now
}

// timeOfDay is how long after midnight the job is due.
func (j *job) timeOfDay() time.Duration {
	at, err := time.Parse("15:04", j.at)
	if err != nil {
		panic(fmt.Sprintf("job %s: %v", j.name, err)) // the table is wrong
	}
	return time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute
}

// latest are the job's newest slots at now: one of its interval, one of its
// time of the day.
func (j *job) latest(now time.Time) []slot {
	now = now.UTC()
	var slots []slot
	if j.every > 0 {
		slots = append(slots, slot{at: now.Truncate(j.every)})
	}
	if j.at != "" {
		at := now.Truncate(24 * time.Hour).Add(j.timeOfDay())
		if at.After(now) {
			at = at.AddDate(0, 0, -1)
		}
		slots = append(slots, slot{at: at, daily: true})
	}
	return slots
}

// after is the slot that takes the place of s.
func (j *job) after(s slot) time.Time {
	if s.daily {
		return s.at.AddDate(0, 0, 1)
	}
	return s.at.Add(j.every)
}

// due is when the job is to run next, given when it started last. It lies in
// the past when nobody runs it.
func (j *job) due(now time.Time, started *time.Time) time.Time {
	from := now
	if started != nil {
		from = *started
	}
	var first time.Time
	for _, s := range j.latest(from) {
		due := s.at
		if started != nil {
			due = j.after(s)
		}
		if first.IsZero() || due.Before(first) {
			first = due
		}
	}
	return first
}

// timeout is how long one run may take.
func (j *job) timeout() time.Duration {
	if j.within > 0 {
		return j.within
	}
	return time.Hour
}

// runnable are the jobs that have a function.
func runnable(jobs []job) []job {
	return slices.DeleteFunc(slices.Clone(jobs), func(j job) bool { return j.run == nil })
}

// known are the jobs that people may name.
func known(jobs []job) []job {
	return slices.DeleteFunc(slices.Clone(jobs), func(j job) bool { return j.partOf != "" })
}

// knownAs is the job that people know a job or its part as.
func knownAs(name string) string {
	for _, j := range jobTable(nil) {
		if j.name == name && j.partOf != "" {
			return j.partOf
		}
	}
	return name
}

// withParts is the job of that name, and after it what belongs to it.
func withParts(jobs []job, name string) ([]job, error) {
	var found []job
	for _, j := range jobs {
		if j.partOf == "" && j.name == name {
			found = slices.Insert(found, 0, j)
		} else if j.partOf == name {
			found = append(found, j)
		}
	}
	if len(found) == 0 {
		return nil, usagef("job %q: there is none, want one of %s", name, strings.Join(namesOf(known(jobs)), ", "))
	}
	return found, nil
}

func namesOf(jobs []job) []string {
	var names []string
	for _, j := range jobs {
		names = append(names, j.name)
	}
	return names
}
