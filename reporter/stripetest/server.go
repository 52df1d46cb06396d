package stripetest

import (
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Options say which Stripe to stand in for. The zero value is a test-mode
// account that accepts any key.
type Options struct {
	Key         string           // the only accepted API key; "" accepts any
	Account     string           // default "acct_test"
	Livemode    bool             // told in every object that has the flag
	Now         func() time.Time // default time.Now; safe for concurrent use
	SummaryLag  time.Duration    // summaries show an event this long after it was received
	DraftTime   time.Duration    // how long an invoice stays a draft; default 1h
	Latency     time.Duration    // each answer takes this long, in real time
	RateLimit   float64          // requests per real second over all; 0 is none
	HookHistory int              // how many of the newest hooks Hooks keeps; 0 keeps all
}

// Server is the stand-in: an http.Handler, safe for concurrent use.
type Server struct {
	options Options
	birth   string // sets the ids of this server apart from those of another
	serial  atomic.Uint64

	flight  flight
	bucket  *bucket
	locks   locks
	calls   calls
	release chan struct{} // closed by Release; guarded by gate
	gate    sync.Mutex
	faults  atomic.Pointer[func(*http.Request, url.Values) Fault]
	outbox  outbox

	mu            sync.Mutex // guards what follows
	customers     map[string]*customer
	meters        register[*meter]
	meterOf       map[string]*meter // by event name
	ledger        map[ledgerKey][]usage
	identifiers   dayMemory[struct{}]
	keys          dayMemory[*firstAnswer]
	subscriptions register[*subscription]
	items         map[string]*subscription // by item
	records       map[string]usageRecords  // by item
	invoices      register[*invoice]
	agenda        agenda
	hooks         []Hook
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
		options:     o,
		birth:       strconv.FormatInt(o.Now().UnixMilli(), 36),
		bucket:      newBucket(o.RateLimit),
		release:     make(chan struct{}),
		customers:   map[string]*customer{},
		meterOf:     map[string]*meter{},
		ledger:      map[ledgerKey][]usage{},
		identifiers: newDayMemory[struct{}](),
		keys:        newDayMemory[*firstAnswer](),
		items:       map[string]*subscription{},
		records:     map[string]usageRecords{},
	}
}

// ServeHTTP answers one request of the API, or fails it as the fault chosen for
// it says.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.flight.enter()
	defer s.flight.leave()
	_ = r.ParseForm() // what cannot be read is missing, and is refused as that
	req := &request{Request: r, form: r.Form}
	call := s.calls.begin(req, s.options.Now())

	fault := s.faultFor(r)
	if !s.failBefore(w, req, fault) {
		return
	}
	a, refused := fault.refusal()
	if !refused {
		a = s.answer(req, fault)
	}
	a, ok := s.failAfter(w, req, fault, a)
	if !ok {
		return
	}
	s.calls.end(call, a.status)
	a.writeTo(w, s.id("req"))
}

// answer is what Stripe says when nothing is in its way.
func (s *Server) answer(req *request, fault Fault) answer {
	if a, ok := s.authorize(req); !ok {
		return a
	}
	if !s.bucket.take(time.Now()) {
		return rateLimited()
	}
	handle, id, ok := route(req.Method, req.URL.Path)
	if !ok {
		return unrecognized(req.Method, req.URL.Path)
	}
	req.id = id
	return s.once(req, func() answer { return s.execute(req, handle, fault) })
}

// execute runs the endpoint. What may not run twice at once is locked for as
// long as the answer takes.
func (s *Server) execute(req *request, handle handler, fault Fault) answer {
	if name := req.exclusive(); name != "" {
		if !s.locks.take(name) {
			return lockTimeout()
		}
		defer s.locks.free(name)
	}
	time.Sleep(s.options.Latency)
	if fault == StoredError500Before {
		return internalError()
	}
	req.discarded = fault == RejectAsync
	a := handle(s, req)
	if fault == StoredError500After {
		return internalError()
	}
	return a
}

// enter takes the lock and lets happen what has become due; the time it returns
// is the time of the call. The caller unlocks.
func (s *Server) enter() time.Time {
	s.mu.Lock()
	now := s.options.Now().UTC()
	s.advance(now)
	return now
}

// Advance lets happen what has become due by the clock: ends of periods,
// finalizations and their hooks. Every other call does so too.
func (s *Server) Advance() {
	s.enter()
	s.mu.Unlock()
}

// id makes a new identifier in Stripe's manner.
func (s *Server) id(prefix string) string {
	n := strconv.FormatUint(s.serial.Add(1), 10)
	return prefix + "_" + s.birth + "00000000"[:max(0, 8-len(n))] + n
}
