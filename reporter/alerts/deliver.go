package alerts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	// tooOld is when a record is no news any more: a Slack that is set up or
	// comes back later is not told.
	tooOld = 7 * 24 * time.Hour

	linesPerMessage = 20
	messagesPerPass = 5      // of each kind; what is beyond them is summed up in one more
	linesPerPass    = 10_000 // bounds the memory
	linesLogged     = 1000   // in a pass, while there is no Slack
	failuresInARow  = 3      // then Slack is down, and the rest is for the next pass
)

// line is one record that is still to be told.
type line struct {
	key   key
	text  string
	about string // what it is counted under when it is only summed up
}

// book is a table of records to tell.
type book struct {
	heading string
	waiting func(ctx context.Context, now time.Time) ([]line, error)
	told    func(ctx context.Context, now time.Time, lines []line) error
	failed  func(ctx context.Context, retryAt *time.Time, lines []line) error // nil: by its own back-off
}

// Deliver tells Slack what was recorded and not told, and returns how many
// records it told and how many are left. A record that Slack does not take is
// tried again later, after 2 minutes at first and 15 at most, and keeps no
// other from being told. Without a webhook it tells nobody, and logs each
// finding once.
func (a *Alerts) Deliver(ctx context.Context) (sent, left int, err error) {
	switch {
	case a.SlackURL == "":
		err = a.logFindings(ctx)
	case !a.Now().Before(a.quiet):
		sent, err = a.deliver(ctx)
	}
	left, countErr := a.left(ctx)
	return sent, left, errors.Join(err, countErr)
}

func (a *Alerts) deliver(ctx context.Context) (sent int, err error) {
	p := pass{a: a}
	for _, b := range []book{a.findingsBook(), a.alertsBook()} {
		lines, err := b.waiting(ctx, a.Now())
		if err != nil {
			return p.sent, err
		}
		for _, m := range messages(lines) {
			if p.over {
				break
			}
			if err := p.send(ctx, b, m); err != nil {
				return p.sent, err
			}
		}
	}
	if p.first != nil {
		return p.sent, fmt.Errorf("tell Slack: %d messages failed: %w", p.failures, p.first)
	}
	return p.sent, nil
}

// message is what Slack is told at once.
type message struct {
	lines  []line
	summed bool // only how many there are of what
}

// messages groups lines into few messages: a month's start must not flood.
func messages(lines []line) []message {
	const listed = messagesPerPass * linesPerMessage
	var all []message
	for part := range slices.Chunk(lines[:min(len(lines), listed)], linesPerMessage) {
		all = append(all, message{lines: part})
	}
	if len(lines) > listed {
		all = append(all, message{lines: lines[listed:], summed: true})
	}
	return all
}

func (m message) text(heading string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "*%s*", heading)
	if !m.summed {
		for _, l := range m.lines {
			fmt.Fprintf(&text, "\n• %s", l.text)
		}
		return text.String()
	}
	fmt.Fprintf(&text, "\n%d more:", len(m.lines))
	counts := map[string]int{}
	var abouts []string
	for _, l := range m.lines {
		if counts[l.about]++; counts[l.about] == 1 {
			abouts = append(abouts, l.about)
		}
	}
	slices.Sort(abouts)
	for _, about := range abouts[:min(len(abouts), linesPerMessage)] {
		fmt.Fprintf(&text, "\n• %s: %d", about, counts[about])
	}
	return text.String()
}

// pass is one go at telling what waits.
type pass struct {
	a        *Alerts
	sent     int
	failures int
	inARow   int
	first    error // why the first message failed
	over     bool
}

// send tells one message. Its error is the database's, or ctx's; Slack's are
// the pass's own affair.
func (p *pass) send(ctx context.Context, b book, m message) error {
	err := p.a.post(ctx, m.text(b.heading))
	now := p.a.Now()
	if err == nil {
		p.sent += len(m.lines)
		p.inARow = 0
		// It was told: that must not be forgotten because the process stops.
		marking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return b.told(marking, now, m.lines)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var answer *slackError
	_ = errors.As(err, &answer)
	if answer != nil && answer.refused() && len(m.lines) > 1 && !m.summed {
		return p.halves(ctx, b, m)
	}
	p.failures++
	p.inARow++
	if p.first == nil {
		p.first = err
	}
	var retryAt *time.Time
	if answer != nil && answer.throttled() {
		p.a.quiet = now.Add(answer.after)
		retryAt, p.over = &p.a.quiet, true
	}
	p.over = p.over || p.inARow >= failuresInARow
	return b.failed(ctx, retryAt, m.lines)
}

// halves tells a message that Slack does not take in two, until what it does
// not take stands alone.
func (p *pass) halves(ctx context.Context, b book, m message) error {
	middle := len(m.lines) / 2
	for _, half := range [][]line{m.lines[:middle], m.lines[middle:]} {
		if p.over {
			return nil
		}
		if err := p.send(ctx, b, message{lines: half}); err != nil {
			return err
		}
	}
	return nil
}

const unloggedSQL = `
select finding_id, kind, detail, tenant_id
from audit_findings
where` + untoldSQL + `
  and finding_id > $2
order by finding_id
limit $3`

// logFindings logs what was found since the last time. Nothing is marked: a
// Slack that is set up later is told too.
func (a *Alerts) logFindings(ctx context.Context) error {
	rows, _ := a.Pool.Query(ctx, unloggedSQL, a.Now().Add(-tooOld), a.logged, linesLogged)
	var id int64
	var kind, detail string
	var tenant *uuid.UUID
	_, err := pgx.ForEachRow(rows, []any{&id, &kind, &detail, &tenant}, func() error {
		log := a.Log
		if tenant != nil {
			log = log.With("tenant", *tenant)
		}
		log.Error("a finding for operators", "kind", kind, "detail", detail)
		a.logged = id
		return nil
	})
	if err != nil {
		return fmt.Errorf("list findings to log: %w", err)
	}
	return nil
}

const leftSQL = `
select
    (select count(*) from usage_alerts where delivered_at is null and raised_at > $1)
    + (select count(*) from audit_findings where` + untoldSQL + `)`

func (a *Alerts) left(ctx context.Context) (n int, err error) {
	if err := a.Pool.QueryRow(ctx, leftSQL, a.Now().Add(-tooOld)).Scan(&n); err != nil {
		return 0, fmt.Errorf("count what is not told: %w", err)
	}
	return n, nil
}
