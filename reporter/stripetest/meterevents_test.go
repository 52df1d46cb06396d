package stripetest

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"
)

const badRequest = stripe.ErrorTypeInvalidRequest

func TestAnEventCountsOnce(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	e, err := s.stripe.BillingMeterEvents.New(s.event("a", 7))
	must(t, err)
	want(t, "identifier", e.Identifier, "a")
	want(t, "payload", e.Payload["value"], "7")
	message := wantError(t, s.send("a", 7), 400, badRequest, "")
	want(t, "text", message, "An event already exists with identifier a.")
	want(t, "total", s.allTime(), 7)
}

func TestIdentifierIsRefusedFor24Hours(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	must(t, s.send("a", 7))
	s.clock.move(24*time.Hour - time.Second)
	wantError(t, s.send("a", 7), 400, badRequest, "")
	s.clock.move(time.Second)
	must(t, s.send("a", 7))
	want(t, "total", s.allTime(), 14)
}

func TestForgottenIdentifiersFreeMemory(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	for i := range 50 {
		must(t, s.send(strconv.Itoa(i), 1))
	}
	s.clock.move(25 * time.Hour)
	must(t, s.send("late", 1))
	want(t, "identifiers", len(s.identifiers.entries), 1)
	want(t, "keys", len(s.keys.entries), 1)
}

func TestInvalidEventsAreRefusedByCode(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.CreateMeter("old")
	s.ArchiveMeter("old")
	s.CreateCustomer("cus_gone", nil)
	s.DeleteCustomer("cus_gone")
	at := func(d time.Duration) *int64 { return stripe.Int64(s.clock.Now().Add(d).Unix()) }
	for name, c := range map[string]struct {
		change func(*stripe.BillingMeterEventParams)
		code   string
	}{
		"unknown meter":    {func(p *stripe.BillingMeterEventParams) { p.EventName = stripe.String("none") }, "no_meter"},
		"archived meter":   {func(p *stripe.BillingMeterEventParams) { p.EventName = stripe.String("old") }, "archived_meter"},
		"no meter":         {func(p *stripe.BillingMeterEventParams) { p.EventName = nil }, "parameter_missing"},
		"unknown customer": {func(p *stripe.BillingMeterEventParams) { p.Payload["stripe_customer_id"] = "cus_no" }, "resource_missing"},
		"deleted customer": {func(p *stripe.BillingMeterEventParams) { p.Payload["stripe_customer_id"] = "cus_gone" }, "resource_missing"},
		"no customer":      {func(p *stripe.BillingMeterEventParams) { delete(p.Payload, "stripe_customer_id") }, "meter_event_no_customer_defined"},
		"too old":          {func(p *stripe.BillingMeterEventParams) { p.Timestamp = at(-35*24*time.Hour - time.Second) }, "timestamp_too_far_in_past"},
		"too new":          {func(p *stripe.BillingMeterEventParams) { p.Timestamp = at(5*time.Minute + time.Second) }, "timestamp_in_future"},
		"fraction":         {func(p *stripe.BillingMeterEventParams) { p.Payload["value"] = "1.5" }, "meter_event_invalid_value"},
		"16 digits":        {func(p *stripe.BillingMeterEventParams) { p.Payload["value"] = "1000000000000000" }, "meter_event_value_too_many_digits"},
		"long identifier":  {func(p *stripe.BillingMeterEventParams) { p.Identifier = stripe.String(strings.Repeat("x", 101)) }, ""},
	} {
		p := s.event("id "+name, 1)
		c.change(p)
		t.Run(name, func(t *testing.T) {
			_, err := s.stripe.BillingMeterEvents.New(p)
			wantError(t, err, 400, badRequest, c.code)
		})
	}
	want(t, "total", s.allTime(), 0)
}

func TestValuesMayBeNegativeAndHave15Digits(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	must(t, s.send("big", 999_999_999_999_999))
	must(t, s.send("less", -999_999_999_999_990))
	want(t, "total", s.allTime(), 9)
}

func TestOneCallAtATimeForACustomerAndMeter(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	executing, proceed := s.holdFirst()
	var wg sync.WaitGroup
	var first error
	wg.Go(func() { first = s.send("first", 1) })
	<-executing
	wantError(t, s.send("second", 1), 429, badRequest, "lock_timeout")
	proceed()
	wg.Wait()
	must(t, first)
	want(t, "in flight", s.MaxInFlight(), 2)
	must(t, s.send("second", 1))
	want(t, "total", s.allTime(), 2)
}

func TestTotalsGoByTheTimestamp(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	p := s.event("early", 5)
	p.Timestamp = stripe.Int64(start.Add(-time.Hour).Unix())
	_, err := s.stripe.BillingMeterEvents.New(p)
	must(t, err)
	must(t, s.send("now", 3))
	want(t, "from start", s.Total(acme, inbox, start, start.Add(time.Hour)), 3)
	want(t, "until start", s.Total(acme, inbox, start.Add(-time.Hour), start), 5)
}

// summaries are the sums that Stripe shows for acme's inbox on a day.
func (s *testEnv) summaries(t *testing.T, grouping *string) (sums []float64) {
	t.Helper()
	day := start.Truncate(24 * time.Hour)
	i := s.stripe.BillingMeterEventSummaries.List(&stripe.BillingMeterEventSummaryListParams{ID: stripe.String("mtr_" + inbox),
		Customer: stripe.String(acme), StartTime: stripe.Int64(day.Unix()), EndTime: stripe.Int64(day.AddDate(0, 0, 1).Unix()),
		ValueGroupingWindow: grouping})
	for i.Next() {
		sums = append(sums, i.BillingMeterEventSummary().AggregatedValue)
	}
	must(t, i.Err())
	return sums
}

func TestSummariesLag(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{SummaryLag: 10 * time.Minute})
	must(t, s.send("a", 7))
	s.clock.move(10*time.Minute - time.Second)
	want(t, "rows before the lag", len(s.summaries(t, nil)), 0)
	s.clock.move(time.Second)
	must(t, s.send("b", 1))
	if got := s.summaries(t, nil); len(got) != 1 || got[0] != 7 {
		t.Fatalf("got %v, want [7]", got)
	}
}

func TestSummariesGroupByWindow(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	for i := range 13 { // over two hours, and more than a page in ten-minute steps
		must(t, s.send(strconv.Itoa(i), 1))
		s.clock.move(10 * time.Minute)
	}
	got := s.summaries(t, stripe.String("hour"))
	if len(got) != 3 || got[0] != 1 || got[1] != 6 || got[2] != 6 {
		t.Fatalf("got %v, want [1 6 6]", got)
	}
}

func TestSummariesRefuseBrokenMinutes(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	i := s.stripe.BillingMeterEventSummaries.List(&stripe.BillingMeterEventSummaryListParams{ID: stripe.String("mtr_" + inbox),
		Customer: stripe.String(acme), StartTime: stripe.Int64(start.Unix() + 1), EndTime: stripe.Int64(start.Unix() + 60)})
	want(t, "rows", i.Next(), false)
	wantError(t, i.Err(), 400, badRequest, "")
}

func TestMetersAreListedByStatus(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{Livemode: true})
	made, err := s.stripe.BillingMeters.New(&stripe.BillingMeterParams{EventName: stripe.String("spam_overage"), DisplayName: stripe.String("Spam"),
		DefaultAggregation: &stripe.BillingMeterDefaultAggregationParams{Formula: stripe.String("sum")}})
	must(t, err)
	s.ArchiveMeter(inbox)
	i := s.stripe.BillingMeters.List(&stripe.BillingMeterListParams{Status: stripe.String("active")})
	want(t, "some", i.Next(), true)
	want(t, "active", i.BillingMeter().ID, made.ID)
	want(t, "livemode", i.BillingMeter().Livemode, true)
	want(t, "more", i.Next(), false)
	m, err := s.stripe.BillingMeters.Get("mtr_"+inbox, nil)
	must(t, err)
	want(t, "status", m.Status, stripe.BillingMeterStatusInactive)
}
