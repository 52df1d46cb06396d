// Package jobs runs the scheduled work: it names the jobs and when they are
// due; River decides which process runs them, keeps their history, retries and
// pauses them.
//
// What it guarantees: a slot (one time at which a job is due) is done once by
// all services together. A slot that was missed because no service ran is made
// up, the newest of several for all of them. A job never runs beside itself,
// also when a person runs it by hand. A paused job stays paused whatever is
// restarted, and for as long as nothing runs.
//
// A process can die in the middle of a slot, which is then done again: a job's
// work must be safe to do twice.
package jobs

import (
	"context"
	"fmt"
	"strings"
	"time"

	"odometer/query/admin"
)

// Work is what a job does at a slot.
type Work func(ctx context.Context, s Slot) error

// Job is scheduled work.
type Job struct {
	Name    string
	Every   time.Duration // 0 when it is due only at a time of the day
	At      string        // its time of the day in UTC, as "02:00"; "" for none
	Timeout time.Duration // a run that takes longer is cancelled; 0 for an hour
	Run     Work          // nil in a table that is only read
}

// Slot is one time at which a job is due.
type Slot struct {
	At     time.Time
	Daily  bool // the job's time of the day, not one of its intervals
	ByHand bool // a person runs the job now
}

// Table returns the jobs, with their work by name.
func Table(work map[string]Work) []Job {
	table := []Job{
		{Name: "rollover", Every: time.Minute},
		{Name: "report", Every: time.Minute, At: "01:00"},
		{Name: "verify", Every: time.Hour},
		{Name: "reconcile", At: "03:00", Timeout: 6 * time.Hour},
		{Name: "alerts", Every: time.Minute},
		{Name: "retention", At: "02:00"},
		{Name: "subscriptions", Every: time.Hour},
	}
	for i := range table {
		table[i].Run = work[table[i].Name]
	}
	return table
}

// Find returns the job of that name, or an [admin.ErrNoJob] that lists the names.
func Find(jobs []Job, name string) (Job, error) {
	for _, j := range jobs {
		if j.Name == name {
			return j, nil
		}
	}
	return Job{}, fmt.Errorf("%w %q: want one of %s", admin.ErrNoJob, name, strings.Join(names(jobs), ", "))
}

func names(jobs []Job) []string {
	all := make([]string, len(jobs))
	for i, j := range jobs {
		all[i] = j.Name
	}
	return all
}

// timeOfDay is the time from midnight to the daily slot.
func (j *Job) timeOfDay() time.Duration {
	at, err := time.Parse("15:04", j.At)
	if err != nil {
		panic(fmt.Sprintf("job %s: %v", j.Name, err)) // the table is wrong
	}
	return time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute
}

// newest returns the newest slots at now: one of the interval, one of the time
// of the day.
func (j *Job) newest(now time.Time) []Slot {
	now = now.UTC()
	var slots []Slot
	if j.Every > 0 {
		slots = append(slots, Slot{At: now.Truncate(j.Every)})
	}
	if j.At != "" {
		at := now.Truncate(24 * time.Hour).Add(j.timeOfDay())
		if at.After(now) {
			at = at.AddDate(0, 0, -1)
		}
		slots = append(slots, Slot{At: at, Daily: true})
	}
	return slots
}

// due is when the job runs next, given when it started last. It lies in the
// past when no service runs it.
func (j *Job) due(now time.Time, started *time.Time) time.Time {
	from := now
	if started != nil {
		from = *started
	}
	var first time.Time
	for _, s := range j.newest(from) {
		due := s.At
		switch {
		case started == nil: // it has never run: the newest slot is due
		case s.Daily:
			due = due.AddDate(0, 0, 1)
		default:
			due = due.Add(j.Every)
		}
		if first.IsZero() || due.Before(first) {
			first = due
		}
	}
	return first
}

func (j *Job) timeout() time.Duration {
	if j.Timeout > 0 {
		return j.Timeout
	}
	return time.Hour
}
