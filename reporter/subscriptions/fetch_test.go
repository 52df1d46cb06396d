package subscriptions

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stripe/stripe-go/v76"
)

// withoutExpand is a stand-in that knows no expand[].
func (env *testEnv) withoutExpand() {
	api := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		for name := range query {
			if strings.HasPrefix(name, "expand[") {
				query.Del(name)
			}
		}
		r.URL.RawQuery = query.Encode()
		env.serveStripe(out, r)
	}))
	env.t.Cleanup(api.Close)
	env.sync = env.newSync(api.URL)
}

func TestUnexpandedCustomerIsFetchedForItsTenant(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"hook", "job"} {
		env := newTestEnv(t, "2026-11-01")
		env.withoutExpand()
		env.subscribe("1", acme, bundle, nil)
		if by == "hook" {
			env.follow()
		}
		env.compare()
		env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
		env.wantFindings()
	}
}

func TestGoneCustomerDoesNotMakeSubscriptionGone(t *testing.T) {
	t.Parallel()
	env := newTestEnv(t, "2026-11-01")
	env.withoutExpand()
	env.subscribe("1", acme, bundle, nil)
	env.editSubscriptions(func(o map[string]any) { o["customer"] = "cus_gone" })
	env.follow()
	env.wantFindings("unknown_customer sub_1")
	env.editSubscriptions(func(o map[string]any) {
		o["customer"], o["metadata"] = "cus_gone", map[string]any{"tenant_id": acme}
	})
	env.compare()
	env.wantSubscriptions("active price_bundle_monthly month sub_1", "2026-11-01 2026-12-01")
	env.wantFindings()
}

func TestErrorsAreGoneOrUnavailable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err        error
		gone, away bool
	}{
		{nil, false, false},
		{errors.New("reset"), false, true},
		{&stripe.Error{HTTPStatusCode: 404}, true, false},
		{&stripe.Error{HTTPStatusCode: 404, Code: stripe.ErrorCodeResourceMissing}, true, false},
		{&stripe.Error{HTTPStatusCode: 400, Code: stripe.ErrorCodeResourceMissing}, true, false},
		{&stripe.Error{HTTPStatusCode: 400}, false, false},
		{&stripe.Error{HTTPStatusCode: 403}, false, false},
		{&stripe.Error{HTTPStatusCode: 429}, false, false},
		{&stripe.Error{HTTPStatusCode: 500}, false, true},
	} {
		err := c.err
		if err != nil {
			err = fmt.Errorf("fetch: %w", readableError(err))
		}
		if isGone(err) != c.gone || isUnavailable(err) != c.away {
			t.Errorf("%v: gone %v, away %v", err, isGone(err), isUnavailable(err))
		}
	}
}

func TestStripeErrorIsOneLine(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]*stripe.Error{
		"Stripe answered 403: no right (\u00fc)": {HTTPStatusCode: 403, Msg: "no\n\x00 right", Code: "\u00fc"},
		"Stripe answered 404: Not Found":         {HTTPStatusCode: 404},
		"Stripe answered 0: (no message)":        {},
	} {
		if got := readableError(e).Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := oneLine(strings.Repeat("\u00fc\xff", 400)); len([]rune(got)) != 301 {
		t.Errorf("got %q", got)
	}
}
