package stripetest

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// usageRecords are the quantities of a legacy metered item by timestamp. A
// period bills their sum.
type usageRecords map[int64]int64

func (u usageRecords) total(from, to time.Time) (sum int64) {
	for timestamp, quantity := range u {
		if within(timestamp, from, to) {
			sum += quantity
		}
	}
	return sum
}

// UsageRecordTotal is the sum of an item's usage records in [from, to).
func (s *Server) UsageRecordTotal(item string, from, to time.Time) int64 {
	s.lockNow()
	defer s.mu.Unlock()
	return s.records[item].total(from, to)
}

// legacyItem finds the item in the path, if it takes usage records.
func (s *Server) legacyItem(req *request) (*Subscription, error) {
	sub := s.items[req.id]
	if sub == nil {
		return nil, noSuch(http.StatusNotFound, "subscription_item", req.id, "id")
	}
	it := sub.Items[slices.IndexFunc(sub.Items, func(it Item) bool { return it.ID == req.id })]
	if !it.Metered || it.Meter != "" {
		return nil, refused(http.StatusBadRequest, apiError{Type: invalidRequest,
			Message: "Cannot create the usage record because the subscription item " + it.ID +
				" has a price that is not metered by usage records."})
	}
	return sub, nil
}

func (s *Server) postUsageRecord(req *request, now time.Time) (object, error) {
	quantity, timestamp, err := readUsageRecord(req, now)
	if err != nil {
		return nil, err
	}
	sub, err := s.legacyItem(req)
	if err != nil {
		return nil, err
	}
	if err := sub.accepts(time.Unix(timestamp, 0), now); err != nil {
		return nil, err
	}
	records := s.records[req.id]
	if records == nil {
		records = usageRecords{}
		s.records[req.id] = records
	}
	if req.get("action") == "set" {
		records[timestamp] = quantity
	} else {
		records[timestamp] += quantity
	}
	return object{"id": s.id("mbur"), "object": "usage_record", "livemode": s.options.Livemode,
		"quantity": records[timestamp], "subscription_item": req.id, "timestamp": timestamp}, nil
}

func readUsageRecord(req *request, now time.Time) (quantity, timestamp int64, err error) {
	quantity, err = req.integer("quantity")
	switch {
	case err != nil:
		return 0, 0, err
	case quantity < 0:
		return 0, 0, invalid("quantity", "", "This value must be greater than or equal to 0.")
	}
	if err := req.oneOf("action", "increment", "set"); err != nil {
		return 0, 0, err
	}
	if text := req.get("timestamp"); text == "" || text == "now" {
		return quantity, now.Unix(), nil
	}
	timestamp, err = req.integer("timestamp")
	return quantity, timestamp, err
}

// accepts refuses usage outside of the current period or in the future. A
// period that ended accepts nothing, so the legacy API has no hour of grace
// after it.
func (sub *Subscription) accepts(t, now time.Time) error {
	cannot := func(why string) error {
		return refused(http.StatusBadRequest, apiError{Type: invalidRequest, Param: "timestamp",
			Message: "Cannot create the usage record with this timestamp because " + why})
	}
	switch {
	case sub.ended():
		return refused(http.StatusBadRequest, apiError{Type: invalidRequest,
			Message: "Cannot create the usage record because the subscription " + sub.ID + " is canceled."})
	case t.Before(sub.Start):
		return cannot("timestamps must be after the subscription's last invoice period (or current period start time).")
	case t.After(now):
		return cannot("timestamps must not be in the future.")
	case !t.Before(sub.End):
		return cannot("timestamps must be before the subscription's current period end time.")
	}
	return nil
}

// listUsageRecordSummaries lists the current period first, then those that were
// invoiced, newest first.
func (s *Server) listUsageRecordSummaries(req *request, _ time.Time) (object, error) {
	sub, err := s.legacyItem(req)
	if err != nil {
		return nil, err
	}
	var rows []object
	if !sub.ended() {
		rows = append(rows, s.usageSummary(req.id, nil, period{sub.Start, sub.End}))
	}
	for _, inv := range slices.Backward(s.customers.of[sub.Customer].invoices) {
		if inv.Subscription == sub.ID {
			rows = append(rows, s.usageSummary(req.id, inv.ID, period{inv.PeriodStart, inv.PeriodEnd}))
		}
	}
	return listRows(req, rows)
}

func (s *Server) usageSummary(item string, invoice any, p period) object {
	return object{"id": "sis_" + item + "_" + strconv.FormatInt(p.start.Unix(), 10), "object": "usage_record_summary",
		"livemode": s.options.Livemode, "invoice": invoice, "subscription_item": item,
		"period":      object{"start": p.start.Unix(), "end": p.end.Unix()},
		"total_usage": s.records[item].total(p.start, p.end)}
}
