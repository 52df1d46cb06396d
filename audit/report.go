package audit

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// The four comparisons, by their place in Report.Comparisons.
const (
	streamEvents = iota
	eventsCounters
	countersLedger
	ledgerStripe
)

// Kinds of differences.
const (
	StreamGone     = "stream_gone"           // there is no stream, or another than was read
	TailLost       = "stream_tail_lost"      // it ends before a position, or holds another message there
	StreamGap      = "stream_gap"            // sequences without a message
	EventMissing   = "event_missing"         // a message without event or dead letter
	EventChanged   = "event_changed"         // an event says other than its message
	EventUnknown   = "event_without_message" // an event of the span that no message tells of
	EventMoved     = "event_moved"           // an event in a period that it does not belong to
	DeadChanged    = "dead_letter_changed"   // a dead letter says other than its message
	DeadCounted    = "dead_letter_counted"   // an open dead letter that is an event too
	CounterDiffers = "counter_differs"       // a counter is not the sum of its events
	CounterMissing = "counter_missing"       // events without a counter
	CounterExtra   = "counter_extra"         // a counter without events
	TotalDiffers   = "total_differs"         // a closed period's frozen total is not what its counter says
	ToldDiffers    = "told_differs"          // what was told of a settled period is not its overage
	ChainBroken    = "ledger_chain_broken"   // a link does not go on where the one before ended
	LinkChanged    = "ledger_link_changed"   // a link says other than when it was made
	LedgerDiffers  = "ledger_differs"        // the ledger is not the one that its mirror in NATS tells of
	StripeDiffers  = "stripe_total_differs"  // Stripe's total is not what the ledger says it accepted
)

// Difference is one disagreement of two books.
type Difference struct {
	Comparison string     `json:"comparison"`
	Kind       string     `json:"kind"`
	Tenant     *uuid.UUID `json:"tenant_id"`
	Agent      string     `json:"agent,omitempty"`
	Period     *time.Time `json:"period_start"`
	Where      string     `json:"where,omitempty"` // position, key, link: what it is about
	Expected   string     `json:"expected"`
	Found      string     `json:"found"`
	Cause      string     `json:"cause"`
	Repair
}

// Repair says how a difference is repaired.
type Repair struct {
	Text string   `json:"repair"`                // for people
	Args []string `json:"repair_args,omitempty"` // of the odometer command that repairs it; nil when no command alone does
}

// command is a repair by a command of this program.
func command(args ...string) Repair {
	text := "odometer"
	for _, arg := range args {
		if strings.ContainsAny(arg, " \"'") {
			arg = strconv.Quote(arg)
		}
		text += " " + arg
	}
	return Repair{Text: text, Args: args}
}

// note adds what people should know of a command.
func (r Repair) note(text string) Repair {
	r.Text += text
	return r
}

// byHand is a repair that no command does.
func byHand(format string, args ...any) Repair { return Repair{Text: fmt.Sprintf(format, args...)} }

// Comparison is what comparing two books came to.
type Comparison struct {
	Name      string `json:"name"`
	Of        string `json:"of"` // what was counted
	Compared  int64  `json:"compared"`
	Equal     int64  `json:"equal"`
	Different int64  `json:"different"`
	Unsettled int64  `json:"unsettled"` // not settled yet: no difference
	Unknown   int64  `json:"unknown"`   // cannot be known: no difference
}

// Stream is what became of the messages that were compared.
type Stream struct {
	First       int64 `json:"first_seq"`
	Through     int64 `json:"through_seq"`
	Last        int64 `json:"last_seq"`
	Messages    int64 `json:"messages"`
	Events      int64 `json:"events"`
	Duplicates  int64 `json:"duplicates"`
	DeadLetters int64 `json:"dead_letters"`
	Waiting     int64 `json:"waiting"` // stored, not read by the aggregator yet
}

// Report is what an audit found.
type Report struct {
	Tenant      *uuid.UUID   `json:"tenant_id"`
	Since       *time.Time   `json:"since"`
	At          time.Time    `json:"at"`
	Comparisons []Comparison `json:"comparisons"`
	Stream      Stream       `json:"stream"`
	OpenDead    int64        `json:"open_dead_letters"`
	Different   int64        `json:"different"` // all of them; the first are in Differences
	Differences []Difference `json:"differences"`
	Notes       []string     `json:"notes"` // what is unsettled or unknown, and why

	mu       sync.Mutex
	unproven map[uuid.UUID]bool // tenants whose events the stream does not bear out
	untrue   bool               // the stream is not the one that was read
	notes    map[string]int64
}

// maxListed bounds the differences that are listed; all are counted.
const maxListed = 1000

func newReport(s Scope) *Report {
	r := &Report{
		Tenant: s.Tenant, At: time.Now().UTC(), Differences: []Difference{}, Notes: []string{},
		Comparisons: []Comparison{
			{Name: "stream and events", Of: "messages"},
			{Name: "events and counters", Of: "counters"},
			{Name: "counters and ledger", Of: "totals and links"},
			{Name: "ledger and Stripe", Of: "customers' meters"},
		},
		unproven: map[uuid.UUID]bool{}, notes: map[string]int64{},
	}
	if !s.Since.IsZero() {
		r.Since = &s.Since
	}
	return r
}

// differs books a difference, listed while there is room.
func (r *Report) differs(comparison int, d Difference) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &r.Comparisons[comparison]
	d.Comparison = c.Name
	c.Compared++
	c.Different++
	r.Different++
	if comparison == streamEvents || d.Kind == EventMoved {
		if d.Tenant != nil {
			r.unproven[*d.Tenant] = true
		}
		r.untrue = r.untrue || d.Kind == StreamGone || d.Kind == TailLost || d.Kind == StreamGap
	}
	if len(r.Differences) < maxListed {
		r.Differences = append(r.Differences, d)
	}
}

// equal books n things that agree.
func (r *Report) equal(comparison int, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Comparisons[comparison].Compared += n
	r.Comparisons[comparison].Equal += n
}

// unsettled books n things that may still come to agree, and why.
func (r *Report) unsettled(comparison int, n int64, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Comparisons[comparison].Compared += n
	r.Comparisons[comparison].Unsettled += n
	r.notes[r.Comparisons[comparison].Name+": unsettled: "+why] += n
}

// unknown books n things of which nothing can be known, and why.
func (r *Report) unknown(comparison int, n int64, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Comparisons[comparison].Unknown += n
	r.notes[r.Comparisons[comparison].Name+": unknown: "+why] += n
}

// note says something that is no difference.
func (r *Report) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes[fmt.Sprintf(format, args...)] = 0
}

// proven reports whether the stream bears out a tenant's events.
func (r *Report) proven(tenant uuid.UUID) bool { return !r.untrue && !r.unproven[tenant] }
