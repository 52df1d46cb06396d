package reporter

import (
	"fmt"
	"hash/fnv"
	"net/http"
	"net/url"
	"strconv"

	"odometer/reporter/stripetest"
)

// faultPlan says how requests fail during a pass.
type faultPlan struct {
	faults, crashes, throttles uint64           // of a thousand requests, entries, requests
	everyRequest               stripetest.Fault // of every request about a customer
	killAfter                  int64            // reports after which the process dies; 0: it lives
}

var faultKinds = []stripetest.Fault{
	stripetest.ResetBefore, stripetest.ResetAfter, stripetest.HTML502Before, stripetest.HTML502After, stripetest.TruncatedAfter,
	stripetest.StoredError500Before, stripetest.StoredError500After, stripetest.Unavailable503,
}

// begin begins a step's requests.
func (s *simulation) begin(kill func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.asked)
	s.posts.Store(0)
	s.kill = kill
}

// fault chooses how a request about a customer fails.
func (s *simulation) fault(r *http.Request, form url.Values) stripetest.Fault {
	about := form.Get("identifier")
	if about == "" && form.Get("customer") != "" {
		about = r.URL.Path + form.Get("customer") + form.Get("start_time")
	}
	if about == "" || s.faults == (faultPlan{}) {
		return stripetest.NoFault
	}
	if r.Method == http.MethodPost && s.posts.Add(1) == s.faults.killAfter {
		s.kill()
	}
	s.mu.Lock()
	s.asked[about]++
	nth := s.asked[about]
	s.mu.Unlock()
	n := s.hashRand("fault", about, strconv.Itoa(nth), strconv.Itoa(s.step))
	rate := s.faults.throttles + s.faults.faults
	if s.hashRand("luck", about)%16 == 0 { // some have none
		rate *= 4
	}
	switch kind := n / 1000; {
	case s.faults.everyRequest != stripetest.NoFault:
		return s.faults.everyRequest
	case n%1000 < s.faults.throttles:
		return []stripetest.Fault{stripetest.TooManyRequests, stripetest.LockTimeout}[kind%2]
	case n%1000 < rate:
		return faultKinds[kind%uint64(len(faultKinds))]
	}
	return stripetest.NoFault
}

// dice draws a number that depends on the seed and the words only.
func (s *simulation) hashRand(words ...string) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, s.seed, words)
	n := h.Sum64()
	n ^= n >> 31
	n *= 0x9e3779b97f4a7c15
	return n ^ n>>29
}

// drawFaults draws the faults of a pass.
func (s *simulation) drawFaults() faultPlan {
	var w faultPlan
	switch n := s.rng.IntN(100); {
	case n < 10:
	case n < 25:
		w.everyRequest = faultKinds[s.rng.IntN(len(faultKinds))]
	default:
		w.faults, w.crashes = uint64(s.rng.IntN(150)), uint64(s.rng.IntN(60))
	}
	if s.rng.IntN(10) == 0 {
		w.throttles = 5
	}
	if s.rng.IntN(6) == 0 {
		w.killAfter = int64(1 + s.rng.IntN(propertyTenants/2))
	}
	return w
}
