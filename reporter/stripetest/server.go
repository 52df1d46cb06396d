// Package stripetest is a Stripe that keeps state.
//
// stripe-mock answers every request with a fixture: it accepts an identifier
// twice, knows no periods and never fails, so nothing that matters about
// billing can be shown with it. This stand-in keeps state and follows the rules
// by which usage becomes money, on a clock that the caller holds. Tests, the
// demo and the benchmark use it through the ordinary stripe-go client.
//
// What it guarantees, and the rule of Stripe each stands for:
//
//   - A meter event counts exactly once: an identifier is refused for 24 hours
//     after it was received (with an error), and may be used again after that.
//   - One call at a time for a customer and a meter, else 429 lock_timeout.
//   - An Idempotency-Key replays its first answer for 24 hours, a 500 included,
//     once execution began; an invalid parameter, a 429 and a 401 are not stored.
//   - Event summaries are eventually consistent: they lag by Options.SummaryLag.
//     Invoices do not lag.
//   - At the end of a period a draft invoice appears. Its quantities are read
//     again when it becomes final, and nothing changes them afterwards.
//   - Usage inside a trial is not invoiced, a negative total bills as 0, and an
//     immediate cancel invoices usage only on request.
//   - A legacy usage record lies in the current period and not in the future.
//   - Hooks are signed as Stripe signs them, and may come in any order.
//
// Time passes only by Options.Now. What has become due (ends of periods,
// finalizations, hooks) happens in its order when a request or an exported call
// arrives; Advance is the call that does nothing else. Only Latency, RateLimit and
// hook signatures use the real clock: the first two concern the speed of the
// caller, and stripe-go verifies the third against it.
//
// It leaves out what the product does not use: prorations, payments, taxes,
// discounts, meters that do not sum raw events, test clocks, and API v2.
package stripetest

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Options say which Stripe to stand in for. The zero value is a test-mode
// account that accepts any key.
type Options struct {
	Key         string           // the only accepted API key; "" accepts any
	Account     string           // default "acct_test"
	Livemode    bool             // shown in every object that has the flag
	Now         func() time.Time // default time.Now; safe for concurrent use
	SummaryLag  time.Duration    // summaries show an event this long after it was received
	DraftTime   time.Duration    // how long an invoice stays a draft; default 1h
	Latency     time.Duration    // each answer takes this long, in real time
	RateLimit   float64          // requests per real second in total; 0: no limit
	HookHistory int              // how many of the newest hooks Hooks keeps; 0 keeps all
}

// Server is the stand-in: an http.Handler, safe for concurrent use.
type Server struct {
	options  Options
	idPrefix string // makes the ids of this server differ from another's
	serial   atomic.Uint64

	limiter   *rate.Limiter
	exclusive sync.Map // names that only one request may use at a time, while it does
	faults    atomic.Pointer[func(*http.Request, url.Values) Fault]
	onHang    func() // for tests: runs when a request hangs
	onExecute func() // for tests: runs while an endpoint executes

	mu            sync.Mutex // guards what follows
	inFlight      int
	mostInFlight  int
	recordCalls   bool
	calls         []*Call
	release       chan struct{} // closed by Release
	customers     register[*customer]
	meters        register[*meter]
	ledger        map[ledgerKey][]usageEvent
	identifiers   dayCache[struct{}]
	keys          dayCache[storedAnswer]
	subscriptions register[*Subscription]
	items         map[string]*Subscription // by item
	records       map[string]usageRecords  // by item
	invoices      register[*Invoice]
	timers        timerQueue
	hooks         []Hook
	outbox        outbox
}

// New makes an empty account: no customers, meters or subscriptions.
func New(o Options) *Server {
	if o.Account == "" {
		o.Account = "acct_test"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.DraftTime == 0 {
		o.DraftTime = time.Hour
	}
	return &Server{
		options:       o,
		idPrefix:      strconv.FormatInt(o.Now().UnixMilli(), 36),
		limiter:       newRateLimiter(o.RateLimit),
		release:       make(chan struct{}),
		customers:     newRegister[*customer]("customer"),
		meters:        newRegister[*meter]("meter"),
		subscriptions: newRegister[*Subscription]("subscription"),
		invoices:      newRegister[*Invoice]("invoice"),
		ledger:        map[ledgerKey][]usageEvent{},
		items:         map[string]*Subscription{},
		records:       map[string]usageRecords{},
	}
}

// ServeHTTP answers one request of the API, or fails as the fault chosen for it
// says.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm() // an unreadable parameter is missing, and refused as that
	req := &request{Request: r, form: r.Form}
	call := s.begin(req)
	defer s.end()

	fault := s.faultFor(r)
	switch {
	case fault == HangBefore && !s.hang(r.Context()):
		return
	case fault == ResetBefore:
		reset(w)
		return
	}
	a, refused := refusals[fault]
	if !refused {
		a = s.answer(req, fault)
	}
	switch {
	case fault == HangAfter && !s.hang(r.Context()):
		return
	case fault == ResetAfter:
		reset(w)
		return
	case fault == HTML502After:
		a = badGateway
	case fault == TruncatedAfter:
		a.head(w, s.id("req"))
		_, _ = w.Write(a.body[:len(a.body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // how net/http aborts an answer
	}
	s.mu.Lock()
	call.Status = a.status // before the caller has the answer
	s.mu.Unlock()
	a.head(w, s.id("req"))
	_, _ = w.Write(a.body) // the client may have gone
}

// answer is the answer without a fault.
func (s *Server) answer(req *request, fault Fault) answer {
	key := bearer(req)
	switch {
	case key == "":
		return noKey
	case s.options.Key != "" && key != s.options.Key:
		return invalidKey(key)
	}
	if !s.limiter.Allow() {
		return rateLimited
	}
	handle, id := route(req.Method, req.URL.Path)
	if handle == nil {
		return unrecognized(req.Method, req.URL.Path)
	}
	req.id = id
	return s.idempotent(req, func() answer { return s.execute(req, handle, fault) })
}

// execute runs the endpoint, under a lock where Stripe allows one call at a
// time.
func (s *Server) execute(req *request, handle handler, fault Fault) answer {
	if name := req.exclusive(); name != "" {
		if _, busy := s.exclusive.LoadOrStore(name, nil); busy {
			return lockTimeout
		}
		defer s.exclusive.Delete(name)
	}
	if s.onExecute != nil {
		s.onExecute()
	}
	time.Sleep(s.options.Latency)
	if fault == StoredError500Before {
		return internalError
	}
	req.rejectAsync = fault == RejectAsync
	body, err := s.handle(req, handle)
	var a answer
	switch {
	case fault == StoredError500After:
		return internalError
	case errors.As(err, &a):
		return a
	}
	return answer{status: http.StatusOK, body: encode(body), began: true}
}

func (s *Server) handle(req *request, handle handler) (object, error) {
	now := s.lockNow()
	defer s.mu.Unlock()
	return handle(s, req, now)
}

// lockNow takes the lock, runs what has become due and returns the time of the
// call. The caller unlocks.
func (s *Server) lockNow() time.Time {
	s.mu.Lock()
	now := s.options.Now().UTC()
	s.advance(now)
	return now
}

// Advance runs what has become due by the clock: ends of periods, finalizations
// and their hooks. Every other call does so too.
func (s *Server) Advance() {
	s.lockNow()
	s.mu.Unlock()
}

// id makes a new identifier in Stripe's format.
func (s *Server) id(prefix string) string {
	n := strconv.FormatUint(s.serial.Add(1), 10)
	return prefix + "_" + s.idPrefix + "00000000"[:max(0, 8-len(n))] + n
}

// handler answers a request at a time, under the server's lock. An error is an
// answer too.
type handler func(*Server, *request, time.Time) (object, error)

const meterEventsPath = "/v1/billing/meter_events"

var endpoints = map[string]handler{
	"POST " + meterEventsPath:                                (*Server).postMeterEvent,
	"GET /v1/billing/meters/{id}/event_summaries":            (*Server).listEventSummaries,
	"POST /v1/subscription_items/{id}/usage_records":         (*Server).postUsageRecord,
	"GET /v1/subscription_items/{id}/usage_record_summaries": (*Server).listUsageRecordSummaries,
	"GET /v1/account":                                        (*Server).getAccount,
	"POST /v1/billing/meters":                                (*Server).postMeter,
	"GET /v1/billing/meters":                                 (*Server).listMeters,
	"GET /v1/billing/meters/{id}":                            (*Server).getMeter,
	"GET /v1/subscriptions":                                  (*Server).listSubscriptions,
	"GET /v1/subscriptions/{id}":                             (*Server).getSubscription,
	"GET /v1/customers/{id}":                                 (*Server).getCustomer,
	"GET /v1/invoices":                                       (*Server).listInvoices,
	"GET /v1/invoices/{id}":                                  (*Server).getInvoice,
	"GET /v1/invoices/{id}/lines":                            (*Server).listInvoiceLines,
	"POST /v1/invoices/{id}/finalize":                        (*Server).postFinalize,
}

// route finds the endpoint of a request and the id in its path; nil without one.
func route(method, path string) (handle handler, id string) {
	if handle = endpoints[method+" "+path]; handle != nil {
		return handle, ""
	}
	segments := strings.Split(path, "/")
	for i, id := range segments {
		segments[i] = "{id}"
		if handle = endpoints[method+" "+strings.Join(segments, "/")]; handle != nil && id != "" {
			return handle, id
		}
		segments[i] = id
	}
	return nil, ""
}
