package reporter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"
	"golang.org/x/time/rate"
)

// CallTimeout bounds one call. A call without an answer by then is unknown, and
// sending it again is always safe.
const CallTimeout = 10 * time.Second

// Stripe is the Stripe account that an API key opens.
type Stripe struct {
	API      *client.API
	Livemode bool
	standIn  bool // not Stripe's own address: its rate limits are not known

	mu       sync.Mutex
	account  string
	meters   map[string]string // ids by event name
	listedAt time.Time
}

// NewStripe makes a client for the key. base is another address than Stripe's
// own; "" means Stripe's. Neither the library nor net/http repeats a call: an
// unknown outcome is ours to decide. NewStripe makes no call.
func NewStripe(key, base string) *Stripe {
	config := &stripe.BackendConfig{
		HTTPClient: &http.Client{
			Timeout: CallTimeout,
			Transport: stripeErrorTransport{singleAttemptTransport{&http.Transport{
				Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 2 * maxConcurrentCalls, IdleConnTimeout: time.Minute,
			}}},
		},
		MaxNetworkRetries: stripe.Int64(0),
		EnableTelemetry:   stripe.Bool(false),
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull},
	}
	if base != "" {
		config.URL = stripe.String(strings.TrimSuffix(base, "/"))
	}
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, config)
	return &Stripe{
		API:      client.New(key, &stripe.Backends{API: backend, Connect: backend, Uploads: backend}),
		Livemode: strings.Contains(key, "_live_"),
		standIn:  base != "" && !strings.Contains(base, "api.stripe.com"),
	}
}

// limits are Stripe's rate limits with some room: 1,000 meter events a second
// in live mode, 25 calls a second of any kind in test mode, and 25 a second for
// each endpoint that is read (docs.stripe.com/rate-limits).
func (s *Stripe) limits() (send, read *rate.Limiter) {
	switch {
	case s.standIn:
		return rate.NewLimiter(5000, maxConcurrentCalls), rate.NewLimiter(5000, maxConcurrentCalls)
	case s.Livemode:
		return rate.NewLimiter(900, maxConcurrentCalls), rate.NewLimiter(22, 5)
	default:
		return rate.NewLimiter(22, 5), rate.NewLimiter(22, 5)
	}
}

// Account returns the account that the key belongs to; it asks Stripe once. ""
// means that Stripe does not say, as for a restricted key; the ledger then
// keeps the account that it knows. The error is a refused key, or no answer.
func (s *Stripe) Account(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.account != "" {
		return s.account, nil
	}
	params := &stripe.Params{Context: ctx}
	account := &stripe.Account{}
	// The library's own call takes no context.
	err := s.API.Accounts.B.Call(http.MethodGet, "/v1/account", s.API.Accounts.Key, params, account)
	switch {
	case err == nil:
		s.account = account.ID
	case !answered(err), statusOf(err) == http.StatusUnauthorized:
		return "", fmt.Errorf("ask which account the key belongs to: %w", err)
	}
	return s.account, nil
}

// accountKnown reports whether Account would answer without a call.
func (s *Stripe) accountKnown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.account != ""
}

// meterID finds a meter by its event name; "" when the account has none.
func (s *Stripe) meterID(ctx context.Context, eventName string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id := s.meters[eventName]; id != "" || time.Since(s.listedAt) < time.Minute {
		return id, nil
	}
	params := &stripe.BillingMeterListParams{ListParams: pages(ctx)}
	found := map[string]string{}
	list := s.API.BillingMeters.List(params)
	for list.Next() {
		m := list.BillingMeter()
		// Of several meters with one name only one can be active.
		if found[m.EventName] == "" || m.Status == stripe.BillingMeterStatusActive {
			found[m.EventName] = m.ID
		}
	}
	if err := list.Err(); err != nil && !isAbsent(err) {
		return "", fmt.Errorf("list meters: %w", err)
	}
	s.meters, s.listedAt = found, time.Now()
	return found[eventName], nil
}

// pages asks for a list in the longest pages that Stripe gives.
func pages(ctx context.Context) stripe.ListParams {
	return stripe.ListParams{Context: ctx, Limit: stripe.Int64(100)}
}

// answered reports whether a call got any HTTP answer.
func answered(err error) bool {
	var transport *url.Error
	return !errors.As(err, &transport) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

// send makes the call that reports an entry to Stripe. The Idempotency-Key is
// new each time: to an old one Stripe replays even a stored 500. What makes it
// count once is the identifier, and for usage records the timestamp.
func (s *Stripe) send(ctx context.Context, e *LedgerEntry) error {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	if e.Sink == UsageRecords {
		return s.setUsage(ctx, e)
	}
	params := &stripe.BillingMeterEventParams{
		EventName:  stripe.String(e.Meter),
		Identifier: stripe.String(e.Identifier),
		Timestamp:  stripe.Int64(e.ReportedAt.Unix()),
		Payload: map[string]string{
			"stripe_customer_id": e.Customer,
			"value":              strconv.FormatInt(e.Value, 10),
		},
		Params: stripe.Params{Context: ctx, IdempotencyKey: stripe.String(uuid.NewString())},
	}
	_, err := s.API.BillingMeterEvents.New(params)
	return err
}

func (s *Stripe) setUsage(ctx context.Context, e *LedgerEntry) error {
	params := &stripe.UsageRecordParams{
		SubscriptionItem: stripe.String(e.Meter),
		Quantity:         stripe.Int64(e.Value),
		Timestamp:        stripe.Int64(e.ReportedAt.Unix()),
		Action:           stripe.String(stripe.UsageRecordActionSet),
		Params:           stripe.Params{Context: ctx, IdempotencyKey: stripe.String(uuid.NewString())},
	}
	_, err := s.API.UsageRecords.New(params)
	return err
}

// errNoMeter says that the account has no meter with a name.
var errNoMeter = errors.New("Stripe has no meter with that event name: create it, or name another in the catalogue")

// stripeTotal is what Stripe's own summary says about a target in a period. It
// usually lags some minutes behind what was accepted.
func (r *Reporter) stripeTotal(ctx context.Context, sink Sink, t MeterTarget, p *period) (int64, error) {
	if err := r.readLimit.Wait(ctx); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	if sink == UsageRecords {
		return r.Stripe.usageRecordSummary(ctx, t.Meter, p)
	}
	return r.Stripe.meterSummary(ctx, t, p)
}

// readSummary is stripeTotal behind the breaker of calls that read.
func (r *Reporter) readSummary(ctx context.Context, sink Sink, t MeterTarget, p *period) (total int64, err error) {
	err = r.readBreaker.do(t.Customer, func() (err error) {
		total, err = r.stripeTotal(ctx, sink, t, p)
		return err
	})
	return total, err
}

func (s *Stripe) meterSummary(ctx context.Context, t MeterTarget, p *period) (int64, error) {
	id, err := s.meterID(ctx, t.Meter)
	switch {
	case err != nil:
		return 0, err
	case id == "":
		return 0, fmt.Errorf("meter %s: %w", t.Meter, errNoMeter)
	}
	from, to := p.summaryWindow()
	params := &stripe.BillingMeterEventSummaryListParams{
		ID: stripe.String(id), Customer: stripe.String(t.Customer),
		StartTime: stripe.Int64(from.Unix()), EndTime: stripe.Int64(to.Unix()), ListParams: pages(ctx),
	}
	sum := 0.0
	list := s.API.BillingMeterEventSummaries.List(params)
	for list.Next() {
		sum += list.BillingMeterEventSummary().AggregatedValue
	}
	if err := list.Err(); err != nil {
		return 0, fmt.Errorf("read the summary of meter %s for %s: %w", t.Meter, t.Customer, err)
	}
	if sum != math.Trunc(sum) || math.Abs(sum) > maxValue*10 {
		return 0, fmt.Errorf("the summary of meter %s for %s is %g, which is no whole number: something else reports to it", t.Meter, t.Customer, sum)
	}
	return int64(sum), nil
}

func (s *Stripe) usageRecordSummary(ctx context.Context, item string, p *period) (int64, error) {
	params := &stripe.UsageRecordSummaryListParams{ListParams: pages(ctx), SubscriptionItem: stripe.String(item)}
	list := s.API.UsageRecordSummaries.List(params)
	for list.Next() {
		summary := list.UsageRecordSummary()
		if summary.Period != nil && coversPeriod(summary.Period, p) {
			return summary.TotalUsage, nil
		}
	}
	if err := list.Err(); err != nil {
		return 0, fmt.Errorf("read the usage of item %s: %w", item, err)
	}
	return 0, nil
}

// coversPeriod reports whether Stripe's period is ours: the running one has no
// end yet, an item's first one no start.
func coversPeriod(theirs *stripe.Period, ours *period) bool {
	middle := ours.start.Add(ours.end.Sub(ours.start) / 2).Unix()
	return (theirs.Start == 0 || theirs.Start <= middle) && (theirs.End == 0 || middle < theirs.End)
}

// meteredItems returns the subscription's items that are billed by usage, by
// the lookup key of their price.
func (s *Stripe) meteredItems(ctx context.Context, subscription string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	sub, err := s.API.Subscriptions.Get(subscription, &stripe.SubscriptionParams{Params: stripe.Params{Context: ctx}})
	switch {
	case statusOf(err) == http.StatusNotFound:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get subscription %s: %w", subscription, err)
	}
	items := map[string]string{}
	if sub.Items != nil {
		for _, item := range sub.Items.Data {
			if item.Price != nil && item.Price.LookupKey != "" {
				items[item.Price.LookupKey] = item.ID
			}
		}
	}
	return items, nil
}
