package reporter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/client"
	"golang.org/x/time/rate"
)

// CallTimeout bounds one call. What has not answered by then is unknown, and
// asking again is always safe.
const CallTimeout = 10 * time.Second

// Stripe is an account at Stripe as a key opens it.
type Stripe struct {
	API      *client.API
	Livemode bool
	standIn  bool // not Stripe's own address: its limits are not known

	mu       sync.Mutex
	account  string
	meters   map[string]string // ids by event name
	listedAt time.Time
}

// NewStripe makes a client for the key; base is another address than Stripe's
// own, "" for that. Nothing below repeats a call, neither the library nor
// net/http: an unknown answer is ours to decide. It calls nobody.
func NewStripe(key, base string) *Stripe {
	config := &stripe.BackendConfig{
		HTTPClient: &http.Client{
			Timeout: CallTimeout,
			Transport: legible{once{&http.Transport{
				Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 2 * maxUnderWay, IdleConnTimeout: time.Minute,
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

// limits are Stripe's rate limits with a little room: 1,000 meter events a
// second in live mode, 25 a second of anything in test mode, and 25 a second
// for each endpoint that is read (docs.stripe.com/rate-limits).
func (s *Stripe) limits() (tell, read *rate.Limiter) {
	switch {
	case s.standIn:
		return rate.NewLimiter(5000, maxUnderWay), rate.NewLimiter(5000, maxUnderWay)
	case s.Livemode:
		return rate.NewLimiter(900, maxUnderWay), rate.NewLimiter(22, 5)
	default:
		return rate.NewLimiter(22, 5), rate.NewLimiter(22, 5)
	}
}

// Account asks once which account the key belongs to. "" means that Stripe does
// not say, as to a restricted key; the ledger then goes on with the account that
// it knows. The error is a refused key, or that nobody answers.
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
	var said *stripe.Error
	switch {
	case err == nil:
		s.account = account.ID
	case !answered(err), errors.As(err, &said) && said.HTTPStatusCode == http.StatusUnauthorized:
		return "", fmt.Errorf("ask which account the key belongs to: %w", err)
	}
	return s.account, nil
}

// knowsAccount reports whether Account would answer without asking.
func (s *Stripe) knowsAccount() bool {
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
	params := &stripe.BillingMeterListParams{}
	params.Context = ctx
	params.Limit = stripe.Int64(100)
	found := map[string]string{}
	list := s.API.BillingMeters.List(params)
	for list.Next() {
		m := list.BillingMeter()
		// Of several with one name only one can be active.
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

// answered reports whether a call got any HTTP answer.
func answered(err error) bool {
	var transport *url.Error
	return !errors.As(err, &transport) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}
