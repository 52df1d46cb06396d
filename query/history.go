package query

import (
	"context"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // zones are known also where the machine has no list of them

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer/api"
)

// What a history can be grouped by.
const (
	ByAgent  = "agent"
	ByAction = "action_type"
)

// HistoryRequest asks for usage by time. The zero value of each field has the
// meaning given there.
type HistoryRequest struct {
	Reader
	From     time.Time // zero: the start of the current period, or as far before To as the window allows
	To       time.Time // exclusive; zero: now
	Window   Window    // "": ByDay
	GroupBy  []string  // nil: ByAgent; empty: totals only
	Timezone string    // of the IANA list; "": UTC
}

// History is usage by the time at which it occurred, whichever period it was
// counted in. It encodes to the JSON of GET /api/v1/usage/history.
type History struct {
	TenantID     uuid.UUID  `json:"tenant_id"`
	From         time.Time  `json:"from" doc:"The start of the first window."`
	To           time.Time  `json:"to" doc:"The end of the last window, exclusive."`
	Window       Window     `json:"window" enum:"hour,day,month"`
	Timezone     string     `json:"timezone" doc:"Whose hours, days and months the windows are."`
	GroupBy      []string   `json:"group_by"`
	AsOf         Instant    `json:"as_of"`
	CompleteFrom *time.Time `json:"complete_from" doc:"What occurred before may have been removed by retention: windows that begin before it are left out. null: nothing was removed."`
	Buckets      []Bucket   `json:"buckets" doc:"Every window of the range that is known, in order, also those without events. None begins before complete_from, or at or after as_of."`
}

// Bucket is what occurred in one window.
type Bucket struct {
	Start    time.Time `json:"start"`
	End      time.Time `json:"end" doc:"Exclusive."`
	Quantity int64     `json:"quantity" doc:"Units; corrections may make it negative."`
	Events   int64     `json:"events"`
	Groups   []Group   `json:"groups" doc:"In the catalogue's order."`
}

// Group is a part of a bucket. It has the fields that it was grouped by.
type Group struct {
	Agent      string `json:"agent,omitempty"`
	ActionType string `json:"action_type,omitempty" doc:"adjustment for corrections."`
	Quantity   int64  `json:"quantity"`
	Events     int64  `json:"events"`
}

// ReadHistory reads a history. The error is a *Refusal where there cannot be
// one, anything else is the database's.
func ReadHistory(ctx context.Context, pool *pgxpool.Pool, r HistoryRequest) (*History, error) {
	zone, err := r.check()
	if err != nil {
		return nil, err
	}
	var h *History
	err = inSnapshot(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := load(ctx, tx, r.Reader)
		if err != nil {
			return err
		}
		edges, err := r.edges(&rows[0], zone)
		if err != nil {
			return err
		}
		h = r.empty(&rows[0], edges)
		if h.CompleteFrom, err = completeFrom(ctx, tx, r.Tenant); err != nil {
			return err
		}
		return h.fill(ctx, tx, edges)
	})
	if err != nil {
		return nil, asTooMuch(err)
	}
	return h, nil
}

// check sets defaults, rejects invalid values and finds the time zone.
func (r *HistoryRequest) check() (*time.Location, error) {
	if r.Window == "" {
		r.Window = ByDay
	}
	if !slices.Contains([]Window{ByHour, ByDay, ByMonth}, r.Window) {
		return nil, refuse(ErrInvalid, "window is %q: it must be hour, day or month.", api.Excerpt(string(r.Window)))
	}
	if r.GroupBy == nil {
		r.GroupBy = []string{ByAgent}
	}
	for i, name := range r.GroupBy {
		if name != ByAgent && name != ByAction || slices.Contains(r.GroupBy[:i], name) {
			return nil, refuse(ErrInvalid, "group_by is %q: it must be agent, action_type, both with a comma between them, or nothing.", api.Excerpt(strings.Join(r.GroupBy, ",")))
		}
	}
	if r.Timezone == "" {
		r.Timezone = "UTC"
	}
	zone, err := time.LoadLocation(r.Timezone)
	if err != nil || zone == time.Local {
		return nil, refuse(ErrInvalid, "timezone is %q: it must be a name of the IANA list, as Europe/Berlin or UTC.", api.Excerpt(r.Timezone))
	}
	return zone, nil
}

// edges are the boundaries of the requested windows.
func (r *HistoryRequest) edges(head *row, zone *time.Location) ([]time.Time, error) {
	from, to := r.From, r.To
	if to.IsZero() {
		to = head.Now
	}
	longest, name := r.Window.longest(to)
	if from.IsZero() {
		if from = *head.PeriodStart; from.Before(longest) {
			from = longest
		}
	}
	switch {
	case !from.Before(to):
		return nil, refuse(ErrInvalid, "from is %s and to is %s: from must be before to.", from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339))
	case from.Before(longest):
		return nil, refuse(ErrInvalid, "from is %s and to is %s: by %s, at most %s are answered at once.", from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339), r.Window, name)
	}
	return r.Window.edges(from, to, zone), nil
}

// longest is the earliest start of a history that ends at that time.
func (w Window) longest(to time.Time) (from time.Time, name string) {
	switch w {
	case ByHour:
		return to.AddDate(0, 0, -31), "31 days"
	case ByMonth:
		return to.AddDate(0, -60, 0), "60 months"
	default:
		return to.AddDate(0, 0, -366), "366 days"
	}
}

// empty is the history without its buckets.
func (r *HistoryRequest) empty(head *row, edges []time.Time) *History {
	return &History{
		TenantID: r.Tenant,
		From:     edges[0].UTC(),
		To:       edges[len(edges)-1].UTC(),
		Window:   r.Window,
		Timezone: r.Timezone,
		GroupBy:  r.GroupBy,
		AsOf:     Instant{*head.CompleteUntil},
		Buckets:  []Bucket{},
	}
}

// The index of the table is by when events were stored: none occurs more than 5
// minutes after that.
const historySQL = `
select
    g.bucket,
    coalesce(g.agent, '') as agent,
    coalesce(g.action_type, '') as action_type,
    g.quantity,
    g.events
from (
    select
        width_bucket(occurred_at, $2::timestamptz[]) as bucket,
        case when $3 then agent end as agent,
        case when $4 then action_type end as action_type,
        sum(quantity)::bigint as quantity,
        count(*) as events
    from usage_events
    where tenant_id = $1
      and occurred_at >= $5
      and occurred_at < $6
      and recorded_at >= $5::timestamptz - interval '5 minutes'
    group by 1, 2, 3
) as g
left join agents as a on a.agent = g.agent
left join actions as t on t.agent = g.agent and t.action_type = g.action_type
order by g.bucket, a.position nulls last, g.agent, t.position nulls last, g.action_type`

// fill adds the windows that are known, and what occurred in them.
func (h *History) fill(ctx context.Context, tx pgx.Tx, edges []time.Time) error {
	for h.CompleteFrom != nil && len(edges) > 0 && edges[0].Before(*h.CompleteFrom) {
		edges = edges[1:]
	}
	for len(edges) > 1 && !edges[len(edges)-2].Before(h.AsOf.Time) {
		edges = edges[:len(edges)-1]
	}
	if len(edges) < 2 {
		return nil
	}
	for i, end := range edges[1:] {
		h.Buckets = append(h.Buckets, Bucket{Start: edges[i].UTC(), End: end.UTC(), Groups: []Group{}})
	}
	rows, _ := tx.Query(ctx, historySQL, h.TenantID, edges,
		slices.Contains(h.GroupBy, ByAgent), slices.Contains(h.GroupBy, ByAction), edges[0], edges[len(edges)-1])
	var n int
	var g Group
	_, err := pgx.ForEachRow(rows, []any{&n, &g.Agent, &g.ActionType, &g.Quantity, &g.Events}, func() error {
		bucket := &h.Buckets[n-1]
		bucket.Quantity += g.Quantity
		bucket.Events += g.Events
		if len(h.GroupBy) > 0 {
			bucket.Groups = append(bucket.Groups, g)
		}
		return nil
	})
	return wrap(err, "history of tenant %s", h.TenantID)
}

// Window is the length of a history's buckets.
type Window string

// The windows are those of a time zone. A day on which the clock is changed has
// 23 or 25 hours. An hour is an hour, whatever the clock says; where a zone
// changes by half an hour it is cut there.
const (
	ByHour  Window = "hour"
	ByDay   Window = "day"
	ByMonth Window = "month"
)

// edges are where the windows that cover [from, to) begin and end: in order,
// all different, the first at or before from, the last at or after to.
func (w Window) edges(from, to time.Time, zone *time.Location) []time.Time {
	year, month, day := from.In(zone).Date()
	var edges []time.Time
	switch w {
	case ByHour:
		edges = hours(firstInstant(date(year, month, day), zone), to)
	case ByMonth:
		edges = walls(date(year, month, 1), 1, 0, to, zone)
	default:
		edges = walls(date(year, month, day), 0, 1, to, zone)
	}
	for len(edges) > 2 && !edges[1].After(from) {
		edges = edges[1:]
	}
	return edges
}

// date is a date as a clock on the wall shows it, anywhere.
func date(year int, month time.Month, day int) time.Time {
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

// walls are the edges at wall and every so many months and days after it, up
// to the first that is not before the time until.
func walls(wall time.Time, months, days int, until time.Time, zone *time.Location) []time.Time {
	edges := []time.Time{firstInstant(wall, zone)}
	for edges[len(edges)-1].Before(until) {
		wall = wall.AddDate(0, months, days)
		// A day that the zone left out altogether is no window.
		if edge := firstInstant(wall, zone); edge.After(edges[len(edges)-1]) {
			edges = append(edges, edge)
		}
	}
	return edges
}

// firstInstant is when the zone's clock first shows the wall's time or, where
// it leaps over it, a later one. time.Date promises neither.
func firstInstant(wall time.Time, zone *time.Location) time.Time {
	const farthest = 26 * time.Hour // no zone is as far from UTC
	t := wall.Add(-farthest).In(zone)
	for {
		_, offset := t.Zone()
		shows := wall.Add(-time.Duration(offset) * time.Second)
		_, change := t.ZoneBounds()
		switch {
		case shows.Before(t):
			return t
		case change.IsZero() || shows.Before(change):
			return shows.In(zone)
		}
		t = change
	}
}

// hours are the edges from first on, up to the first that is not before until.
func hours(first, until time.Time) []time.Time {
	edges := []time.Time{first}
	for edges[len(edges)-1].Before(until) {
		edges = append(edges, nextHour(edges[len(edges)-1]))
	}
	return edges
}

// nextHour is the next full hour of t's zone, or the change of its clock that
// moves the full hours.
func nextHour(t time.Time) time.Time {
	const hour = 3600
	_, offset := t.Zone()
	past := (t.Unix() + int64(offset)) % hour
	if past < 0 {
		past += hour
	}
	full := t.Add(time.Duration(hour-past) * time.Second)
	if _, change := t.ZoneBounds(); !change.IsZero() && change.Before(full) {
		if _, after := change.Zone(); (after-offset)%hour != 0 {
			return change
		}
	}
	return full
}
