package subscriptions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"

	"github.com/stripe/stripe-go/v76"
)

// fetch gets a subscription in its current state, with its customer.
func (s *Sync) fetch(ctx context.Context, id string) (*stripe.Subscription, error) {
	params := &stripe.SubscriptionParams{Params: stripe.Params{Context: ctx}}
	params.AddExpand("customer")
	sub, err := s.Stripe.Subscriptions.Get(id, params)
	if err != nil {
		return nil, fmt.Errorf("fetch subscription %s: %w", id, readableError(err))
	}
	if c := sub.Customer; sub.Metadata["tenant_id"] == "" && c != nil && c.ID != "" && c.Object == "" {
		if err := s.fetchCustomer(ctx, sub); err != nil {
			return nil, err
		}
	}
	return sub, nil
}

// fetchCustomer gets the customer of a subscription that came with the
// customer's id alone: the customer may name the tenant.
func (s *Sync) fetchCustomer(ctx context.Context, sub *stripe.Subscription) error {
	customer, err := s.Stripe.Customers.Get(sub.Customer.ID, &stripe.CustomerParams{Params: stripe.Params{Context: ctx}})
	switch {
	case isGone(err): // it names no tenant; the subscription exists
		return nil
	case err != nil:
		return fmt.Errorf("fetch customer %s: %w", sub.Customer.ID, readableError(err))
	}
	sub.Customer = customer
	return nil
}

// fetchInvoice gets the subscription and the customer of an invoice.
func (s *Sync) fetchInvoice(ctx context.Context, id string) (subscription, customer string, err error) {
	inv, err := s.Stripe.Invoices.Get(id, &stripe.InvoiceParams{Params: stripe.Params{Context: ctx}})
	if err != nil {
		return "", "", fmt.Errorf("fetch invoice %s: %w", id, readableError(err))
	}
	if inv.Subscription != nil {
		subscription = inv.Subscription.ID
	}
	if inv.Customer != nil {
		customer = inv.Customer.ID
	}
	return subscription, customer, nil
}

// list calls each with subscriptions of every status, page by page: a
// customer's, or with "" all.
func (s *Sync) list(ctx context.Context, customer string, each func(*stripe.Subscription) error) error {
	params := &stripe.SubscriptionListParams{Status: stripe.String("all"),
		ListParams: stripe.ListParams{Context: ctx, Limit: stripe.Int64(pageSize)}}
	params.AddExpand("data.customer")
	if customer != "" {
		params.Customer = stripe.String(customer)
	}
	found := s.Stripe.Subscriptions.List(params)
	for found.Next() {
		if err := each(found.Subscription()); err != nil {
			return err
		}
	}
	if err := found.Err(); err != nil {
		return fmt.Errorf("list subscriptions: %w", readableError(err))
	}
	return nil
}

// stripeError is an error of Stripe in one line for people; the library's own
// text is all of its JSON.
type stripeError struct{ answer *stripe.Error }

func (r *stripeError) Error() string {
	text := fmt.Sprintf("Stripe answered %d: %s", r.answer.HTTPStatusCode,
		oneLine(cmp.Or(r.answer.Msg, http.StatusText(r.answer.HTTPStatusCode), "(no message)")))
	if r.answer.Code != "" {
		text += " (" + oneLine(string(r.answer.Code)) + ")"
	}
	return text
}

func (r *stripeError) Unwrap() error { return r.answer }

// readableError makes one line of an error of Stripe and keeps any other.
func readableError(err error) error {
	var e *stripe.Error
	if errors.As(err, &e) {
		return &stripeError{e}
	}
	return err
}

// isGone reports whether Stripe does not have the object. A 404 is enough: not
// every stand-in sends the code too.
func isGone(err error) bool {
	var e *stripe.Error
	return errors.As(err, &e) && (e.HTTPStatusCode == http.StatusNotFound ||
		e.HTTPStatusCode == http.StatusBadRequest && e.Code == stripe.ErrorCodeResourceMissing)
}

// isUnavailable reports whether a call failed without an answer, or with one
// that says that Stripe is in trouble. Any other answer proves that Stripe is
// up.
func isUnavailable(err error) bool {
	if err == nil {
		return false
	}
	var e *stripe.Error
	return !errors.As(err, &e) || e.HTTPStatusCode >= http.StatusInternalServerError
}

// oneLine makes text storable and readable in one line.
func oneLine(text string) string {
	const longest = 300
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "?"), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
	if runes := []rune(text); len(runes) > longest {
		text = string(runes[:longest]) + "…"
	}
	return text
}
