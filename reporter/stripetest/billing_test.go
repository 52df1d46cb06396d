package stripetest

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76"
)

var monthEnd = start.AddDate(0, 1, 0)

func TestAPeriodEndsInADraftOfItsUsage(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(nil)
	must(t, s.send("a", 7))
	s.clock.set(monthEnd)
	inv := s.Invoices(acme)[0]
	want(t, "status", inv.Status, "draft")
	want(t, "usage", quantity(inv, inbox), 7)
	want(t, "base", quantity(inv, "base"), 1)
	want(t, "ended", inv.Lines[1].PeriodEnd, monthEnd)
	want(t, "licensed ahead", inv.Lines[0].PeriodStart, monthEnd)
	sub, err := s.stripe.Subscriptions.Get("sub_acme", nil)
	must(t, err)
	want(t, "start", sub.CurrentPeriodStart, monthEnd.Unix())
	want(t, "end", sub.CurrentPeriodEnd, start.AddDate(0, 2, 0).Unix())
	want(t, "latest", sub.LatestInvoice.ID, inv.ID)
}

func TestADraftTakesLateUsageWhenItBecomesFinal(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(nil)
	s.clock.set(monthEnd.Add(30 * time.Minute))
	s.sendAt(t, "late", 5, monthEnd.Add(-time.Minute))
	want(t, "draft", quantity(s.Invoices(acme)[0], inbox), 0)
	s.clock.set(monthEnd.Add(time.Hour))
	inv := s.Invoices(acme)[0]
	want(t, "status", inv.Status, "open")
	want(t, "finalized", *inv.FinalizedAt, monthEnd.Add(time.Hour))
	want(t, "usage", quantity(inv, inbox), 5)
}

func TestFinalInvoiceIgnoresLateUsage(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(nil)
	s.clock.set(monthEnd.Add(time.Hour)) // no call until now
	s.sendAt(t, "late", 5, monthEnd.Add(-time.Minute))
	want(t, "usage", quantity(s.Invoices(acme)[0], inbox), 0)
	s.clock.move(40 * 24 * time.Hour)
	invoices := s.Invoices(acme)
	want(t, "invoices", len(invoices), 2)
	want(t, "next", quantity(invoices[1], inbox), 0)
}

// sendAt counts usage of a time that is over.
func (s *testEnv) sendAt(t *testing.T, identifier string, value int64, at time.Time) {
	t.Helper()
	p := s.event(identifier, value)
	p.Timestamp = stripe.Int64(at.Unix())
	_, err := s.stripe.BillingMeterEvents.New(p)
	must(t, err)
}

func TestANegativeTotalBillsAsNothing(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(nil)
	must(t, s.send("a", -7))
	s.clock.set(monthEnd)
	want(t, "usage", quantity(s.Invoices(acme)[0], inbox), 0)
}

func TestClockAdvancedByMonthsHasEveryPeriod(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	january := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
	s.clock.set(january)
	s.subscribe(func(sub *Subscription) { sub.Start, sub.Status = january, "past_due" })
	s.clock.set(time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC))
	var ends []string
	for _, inv := range s.Invoices(acme) {
		ends = append(ends, inv.PeriodEnd.Format(time.DateOnly))
	}
	if !slices.Equal(ends, []string{"2026-02-28", "2026-03-31", "2026-04-30"}) {
		t.Fatalf("got %v", ends)
	}
	sub, _ := s.Subscription("sub_acme")
	want(t, "status", sub.Status, "past_due")
}

func TestTrialUsageIsNotInvoiced(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	trialEnd := start.AddDate(0, 0, 14)
	s.subscribe(func(sub *Subscription) { sub.Status, sub.TrialEnd = "trialing", &trialEnd })
	must(t, s.send("a", 7))
	s.clock.set(trialEnd.Add(2 * time.Hour))
	want(t, "usage", quantity(s.Invoices(acme)[0], inbox), 0)
	sub, _ := s.Subscription("sub_acme")
	want(t, "status", sub.Status, "active")
	want(t, "start", sub.Start, trialEnd)
	want(t, "end", sub.End, trialEnd.AddDate(0, 1, 0))
}

func TestCancelAtPeriodEndInvoicesTheUsage(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(func(sub *Subscription) { sub.CancelAtPeriodEnd = true })
	must(t, s.send("a", 7))
	s.clock.set(monthEnd.AddDate(0, 3, 0))
	invoices := s.Invoices(acme)
	want(t, "invoices", len(invoices), 1)
	want(t, "usage", quantity(invoices[0], inbox), 7)
	want(t, "base", quantity(invoices[0], "base"), -1)
	sub, err := s.stripe.Subscriptions.Get("sub_acme", nil)
	must(t, err)
	want(t, "status", sub.Status, stripe.SubscriptionStatusCanceled)
	want(t, "ended", sub.EndedAt, monthEnd.Unix())
}

func TestImmediateCancelInvoicesOnlyWhenTold(t *testing.T) {
	t.Parallel()
	for _, invoiceNow := range []bool{false, true} {
		t.Run(strconv.FormatBool(invoiceNow), func(t *testing.T) {
			t.Parallel()
			s := newTestEnv(t, Options{})
			s.subscribe(nil)
			must(t, s.send("a", 7))
			s.clock.move(time.Hour)
			s.CancelSubscription("sub_acme", invoiceNow)
			s.clock.move(60 * 24 * time.Hour)
			invoices := s.Invoices(acme)
			want(t, "invoiced", len(invoices) == 1, invoiceNow)
			if invoiceNow {
				want(t, "usage", quantity(invoices[0], inbox), 7)
			}
		})
	}
}

func TestCancelAtEndsWithinThePeriod(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	at := start.AddDate(0, 0, 3)
	s.subscribe(nil)
	s.UpdateSubscription("sub_acme", func(sub *Subscription) { sub.CancelAt = &at })
	must(t, s.send("a", 7))
	s.clock.set(monthEnd)
	sub, _ := s.Subscription("sub_acme")
	want(t, "ended", *sub.EndedAt, at)
	want(t, "usage", quantity(s.Invoices(acme)[0], inbox), 7)
}

func TestInvoicesAreListedNewestFirst(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(nil)
	s.clock.set(start.AddDate(0, 3, 0))
	list := &stripe.InvoiceListParams{Customer: stripe.String(acme), Subscription: stripe.String("sub_acme")}
	list.Limit = stripe.Int64(2)
	i := s.stripe.Invoices.List(list)
	var created []int64
	for i.Next() {
		created = append(created, i.Invoice().Created)
	}
	must(t, i.Err())
	want(t, "invoices", len(created), 3)
	want(t, "newest first", created[0] > created[1] && created[1] > created[2], true)
	drafts := s.stripe.Invoices.List(&stripe.InvoiceListParams{Status: stripe.String("draft")})
	want(t, "a draft", drafts.Next(), true)
	want(t, "the last", drafts.Invoice().Created, created[0])
	want(t, "one draft", drafts.Next(), false)
}

func TestAnInvoiceHasItsLinesInPages(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(func(sub *Subscription) {
		for i := range 12 {
			sub.Items = append(sub.Items, Item{LookupKey: "extra" + strconv.Itoa(i), Metered: true})
		}
	})
	must(t, s.send("a", 3))
	s.clock.set(monthEnd)
	inv, err := s.stripe.Invoices.Get(s.Invoices(acme)[0].ID, nil)
	must(t, err)
	want(t, "within", len(inv.Lines.Data), 10)
	want(t, "more", inv.Lines.HasMore, true)
	want(t, "price", inv.Lines.Data[1].Price.LookupKey, inbox)
	want(t, "quantity", inv.Lines.Data[1].Quantity, 3)
	want(t, "half a cent is up", inv.Lines.Data[1].Amount, 2)
	i, n := s.stripe.Invoices.ListLines(&stripe.InvoiceListLinesParams{Invoice: stripe.String(inv.ID)}), 0
	for i.Next() {
		n++
	}
	must(t, i.Err())
	want(t, "all", n, 15)
}

func TestFinalizingTwiceIsRefused(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(nil)
	s.clock.set(monthEnd)
	id := s.Invoices(acme)[0].ID
	inv, err := s.stripe.Invoices.FinalizeInvoice(id, nil)
	must(t, err)
	want(t, "finalized", inv.StatusTransitions.FinalizedAt, monthEnd.Unix())
	_, err = s.stripe.Invoices.FinalizeInvoice(id, nil)
	wantError(t, err, 400, badRequest, "invoice_not_editable")
}

func TestSubscriptionsAreListedInPagesWithCustomers(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	for i := range 25 {
		s.subscribe(func(sub *Subscription) { sub.ID, sub.Items = "sub_"+strconv.Itoa(i), nil })
	}
	s.CancelSubscription("sub_3", false)
	count := func(status string, customer *string) (n int) {
		p := &stripe.SubscriptionListParams{Status: stripe.String(status), Customer: customer}
		p.AddExpand("data.customer")
		i := s.stripe.Subscriptions.List(p)
		for i.Next() {
			want(t, "metadata", i.Subscription().Customer.Metadata["tenant"], "acme")
			n++
		}
		must(t, i.Err())
		return n
	}
	want(t, "all", count("all", nil), 25)
	want(t, "active", count("active", nil), 24)
	want(t, "of acme", count("all", stripe.String(acme)), 25)
}

func TestADeletedCustomerIsOnlyAnId(t *testing.T) {
	t.Parallel()
	s := newTestEnv(t, Options{})
	s.subscribe(nil)
	s.DeleteCustomer(acme)
	c, err := s.stripe.Customers.Get(acme, nil)
	must(t, err)
	want(t, "deleted", c.Deleted, true)
	sub, _ := s.Subscription("sub_acme")
	want(t, "status", sub.Status, "canceled")
	_, err = s.stripe.Customers.Get("cus_no", nil)
	wantError(t, err, 404, badRequest, "resource_missing")
}

func TestBoundariesCountFromTheAnchor(t *testing.T) {
	t.Parallel()
	anchor := time.Date(2024, 1, 31, 10, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		interval string
		count    int64
		after    string
		next     string
	}{
		{"month", 1, "2024-01-31T10:00:00Z", "2024-02-29T10:00:00Z"},
		{"month", 1, "2024-02-29T10:00:00Z", "2024-03-31T10:00:00Z"},
		{"month", 1, "2024-02-29T09:59:59Z", "2024-02-29T10:00:00Z"},
		{"month", 3, "2024-02-01T00:00:00Z", "2024-04-30T10:00:00Z"},
		{"month", 1, "2023-12-15T00:00:00Z", "2023-12-31T10:00:00Z"},
		{"year", 1, "2025-01-31T10:00:00Z", "2026-01-31T10:00:00Z"},
		{"week", 2, "2024-02-01T00:00:00Z", "2024-02-14T10:00:00Z"},
		{"day", 1, "2024-02-28T10:00:00Z", "2024-02-29T10:00:00Z"},
		{"day", 1, "2024-01-01T00:00:00Z", "2024-01-01T10:00:00Z"},
	} {
		after, err := time.Parse(time.RFC3339, c.after)
		must(t, err)
		got := cycle{anchor, c.interval, c.count}.after(after)
		want(t, c.interval+" after "+c.after, got.Format(time.RFC3339), c.next)
	}
}
