package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// The four comparisons, as indexes of Report.Comparisons.
const (
	streamEvents = iota
	eventsCounters
	countersLedger
	ledgerStripe
)

// Kinds of differences.
const (
	StreamGone          = "stream_gone"           // there is no stream, or not the one that was read
	StreamTailLost      = "stream_tail_lost"      // it ends before a position, or holds another message there
	StreamGap           = "stream_gap"            // sequences without a message
	EventMissing        = "event_missing"         // a message without event, duplicate or dead letter
	EventChanged        = "event_changed"         // an event does not say what its message says
	EventWithoutMessage = "event_without_message" // an event whose message should be there and is not
	EventMoved          = "event_moved"           // an event in a period that it does not belong to
	DeadLetterChanged   = "dead_letter_changed"   // a dead letter does not say what its message says
	DeadLetterCounted   = "dead_letter_counted"   // an open dead letter that is an event too
	CounterDiffers      = "counter_differs"       // a counter is not the sum of its events
	CounterMissing      = "counter_missing"       // events without a counter
	CounterExtra        = "counter_extra"         // a counter without events
	TotalDiffers        = "total_differs"         // a closed period's frozen total is not its counter
	ToldDiffers         = "told_differs"          // what was reported of a settled period is not its overage
	LedgerChainBroken   = "ledger_chain_broken"   // an entry does not continue the one before it
	LedgerLinkChanged   = "ledger_link_changed"   // an entry was changed after it was written
	LedgerDiffers       = "ledger_differs"        // the ledger is not the one that its mirror in NATS knows
	StripeTotalDiffers  = "stripe_total_differs"  // Stripe's total is not what it accepted by the ledger
)

// Difference is one disagreement of two data sets.
type Difference struct {
	Comparison string     `json:"comparison"`
	Kind       string     `json:"kind"`
	Tenant     *uuid.UUID `json:"tenant_id"`
	Agent      string     `json:"agent,omitempty"`
	Period     *time.Time `json:"period_start"`
	Where      string     `json:"where,omitempty"` // position, key or ledger entry: what it is about
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

// Comparison is the result of comparing two data sets.
type Comparison struct {
	Name      string `json:"name"`
	Of        string `json:"of"` // what is counted here
	Compared  int64  `json:"compared"`
	Equal     int64  `json:"equal"`
	Different int64  `json:"different"`
	Unsettled int64  `json:"unsettled"` // may still come to agree: no difference
	Unknown   int64  `json:"unknown"`   // cannot be known: no difference
}

// Stream is what the compared messages became.
type Stream struct {
	First       int64 `json:"first_seq"`
	Through     int64 `json:"through_seq"`
	Last        int64 `json:"last_seq"`
	Messages    int64 `json:"messages"`
	Events      int64 `json:"events"`
	Duplicates  int64 `json:"duplicates"`
	DeadLetters int64 `json:"dead_letters"`
	Waiting     int64 `json:"waiting"` // stored, but not read by the aggregator yet
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

	mu           sync.Mutex
	unproven     map[uuid.UUID]bool // tenants whose events the stream does not confirm
	streamBroken bool               // the stream is not the one that was read, or lost a part
	notes        map[string]int64   // how many things each is about; 0: it has no number
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

// addDifference counts a difference and lists it while there is room.
func (r *Report) addDifference(comparison int, d Difference) {
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
		r.streamBroken = r.streamBroken || d.Kind == StreamGone || d.Kind == StreamTailLost || d.Kind == StreamGap
	}
	if len(r.Differences) < maxListed {
		r.Differences = append(r.Differences, d)
	}
}

// full reports whether no more differences are listed.
func (r *Report) full() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.Differences) >= maxListed
}

// addEqual counts n things that agree.
func (r *Report) addEqual(comparison int, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Comparisons[comparison].Compared += n
	r.Comparisons[comparison].Equal += n
}

// addUnsettled counts n things that may still come to agree, and says why.
func (r *Report) addUnsettled(comparison int, n int64, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Comparisons[comparison].Compared += n
	r.Comparisons[comparison].Unsettled += n
	r.notes[r.Comparisons[comparison].Name+": unsettled: "+why] += n
}

// addUnknown counts n things of which nothing can be known, and says why.
func (r *Report) addUnknown(comparison int, n int64, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Comparisons[comparison].Unknown += n
	r.notes[r.Comparisons[comparison].Name+": unknown: "+why] += n
}

// addNote says something that is no difference.
func (r *Report) addNote(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes[fmt.Sprintf(format, args...)] = 0
}

// addMessages counts what a chunk's messages became.
func (r *Report) addMessages(c *chunk) {
	var became [missing + 1]int64
	for i := range c.messages {
		became[c.messages[i].outcome]++
	}
	r.addEqual(streamEvents, became[counted]+became[duplicate]+became[deadLetter])
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Stream.Messages += int64(len(c.messages))
	r.Stream.Waiting += c.waiting
	r.Stream.Events += became[counted] + became[altered]
	r.Stream.Duplicates += became[duplicate]
	r.Stream.DeadLetters += became[deadLetter]
}

// proven reports whether the stream confirms a tenant's events.
func (r *Report) proven(tenant uuid.UUID) bool { return !r.streamBroken && !r.unproven[tenant] }

// finish writes the notes and sorts the differences: chunks are compared side by
// side, and the report must not depend on which was first.
func (r *Report) finish() {
	for _, note := range slices.Sorted(maps.Keys(r.notes)) {
		if n := r.notes[note]; n > 0 {
			note = fmt.Sprintf("%s (%d)", note, n)
		}
		r.Notes = append(r.Notes, note)
	}
	order := map[string]int{}
	for i, c := range r.Comparisons {
		order[c.Name] = i
	}
	slices.SortStableFunc(r.Differences, func(a, b Difference) int {
		return cmp.Or(
			cmp.Compare(order[a.Comparison], order[b.Comparison]),
			cmp.Compare(orZero(a.Tenant).String(), orZero(b.Tenant).String()),
			cmp.Compare(a.Agent, b.Agent),
			orZero(a.Period).Compare(orZero(b.Period)),
			cmp.Compare(a.Where, b.Where),
		)
	})
}

// orZero is what a pointer points to, the zero value for nil.
func orZero[T any](p *T) (value T) {
	if p != nil {
		value = *p
	}
	return value
}
