package api

import (
	"net/http"
	"net/url"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// exampleDetails are what the problems' details read like, where no operation
// says it better.
var exampleDetails = map[Kind]string{
	Unauthorized:         "The token is not accepted: it has expired. Get a new one.",
	SubscriptionInactive: "The subscription's status is past_due. Usage can be read while it is active or trial; renew it to see usage again.",
	NoSubscription:       "Tenant 0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01 has no subscription. Subscribe to a plan, or ask the operator to set a subscription up.",
	TooSlow:              "The body did not arrive in time. Send the same again.",
	TooLarge:             "The body has 1048576 bytes or more: send a smaller one.",
	UnsupportedMediaType: "Send the body as application/json.",
	Internal:             internalProblem().Detail,
	NoPlan:               "The subscription is active but has no plan. Ask the operator to assign one.",
}

// exampleDetail is what a refusal of an operation reads like.
func exampleDetail(g *guarded, k Kind) string {
	switch own := g.refusal(k); {
	case own != nil:
		return own.Detail
	case k == Forbidden:
		return outOfScope(g.Scope).Detail
	case k == methodNotAllowed:
		return notAmong(http.MethodDelete, g.Method).Detail
	case k == RateLimited:
		return tooOften(g.limit.n, 12*time.Second).Detail
	case k == Unavailable && g.AdminOnly:
		return databaseAway().Detail
	case k == Unavailable:
		return "Usage is not known yet: the events recorded so far have not all been read. Ask again in a few seconds."
	}
	return exampleDetails[k]
}

// refusal is the operation's own example of a kind of problem, nil for none.
func (g *guarded) refusal(k Kind) *Problem {
	for _, p := range g.Refusals {
		if p.Status == k.status && p.Type == "/problems/"+k.name {
			return p
		}
	}
	return nil
}

// exampleMisspelling is what a 400 of an operation reads like: it names the
// parameters, which are known only when huma has read the input's type.
func exampleMisspelling(op *huma.Operation, known []string) {
	response := op.Responses["400"]
	if response == nil {
		return
	}
	example := misread(&http.Request{URL: &url.URL{RawQuery: "tenant=acme"}}, known)
	example.Instance = op.Path
	response.Content[problemType].Examples[InvalidRequest.name] = &huma.Example{Summary: InvalidRequest.title, Value: example}
}
