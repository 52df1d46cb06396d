package stripetest

import (
	"net/http"
	"strings"
)

type handler func(*Server, *request) answer

type endpoint struct {
	method, path string // {id} in the path stands for one segment
	handle       handler
}

const meterEventsPath = "/v1/billing/meter_events"

var endpoints = []endpoint{
	{http.MethodPost, meterEventsPath, (*Server).postMeterEvent},
	{http.MethodGet, "/v1/billing/meters/{id}/event_summaries", (*Server).listEventSummaries},
	{http.MethodPost, "/v1/subscription_items/{id}/usage_records", (*Server).postUsageRecord},
	{http.MethodGet, "/v1/subscription_items/{id}/usage_record_summaries", (*Server).listUsageRecordSummaries},
	{http.MethodGet, "/v1/account", (*Server).getAccount},
	{http.MethodPost, "/v1/billing/meters", (*Server).postMeter},
	{http.MethodGet, "/v1/billing/meters", (*Server).listMeters},
	{http.MethodGet, "/v1/billing/meters/{id}", (*Server).getMeter},
	{http.MethodGet, "/v1/subscriptions", (*Server).listSubscriptions},
	{http.MethodGet, "/v1/subscriptions/{id}", (*Server).getSubscription},
	{http.MethodGet, "/v1/customers/{id}", (*Server).getCustomer},
	{http.MethodGet, "/v1/invoices", (*Server).listInvoices},
	{http.MethodGet, "/v1/invoices/{id}", (*Server).getInvoice},
	{http.MethodGet, "/v1/invoices/{id}/lines", (*Server).listInvoiceLines},
	{http.MethodPost, "/v1/invoices/{id}/finalize", (*Server).postFinalize},
}

// route finds the endpoint of a request and the id in its path.
func route(method, path string) (handle handler, id string, ok bool) {
	for _, e := range endpoints {
		if e.method != method {
			continue
		}
		if id, ok := match(e.path, path); ok {
			return e.handle, id, true
		}
	}
	return nil, "", false
}

func match(pattern, path string) (id string, ok bool) {
	before, after, named := strings.Cut(pattern, "{id}")
	if !named {
		return "", pattern == path
	}
	rest, ok := strings.CutPrefix(path, before)
	if !ok {
		return "", false
	}
	id, ok = strings.CutSuffix(rest, after)
	return id, ok && id != "" && !strings.Contains(id, "/")
}
