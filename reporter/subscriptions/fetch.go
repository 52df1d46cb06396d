package subscriptions

import (
	"context"
	"fmt"

	"github.com/stripe/stripe-go/v76"
)

// fetch gets a subscription as it is now, with its customer.
func (s *Sync) fetch(ctx context.Context, id string) (*stripe.Subscription, error) {
	params := &stripe.SubscriptionParams{}
	params.Context = ctx
	params.AddExpand("customer")
	sub, err := s.stripe.Subscriptions.Get(id, params)
	if err != nil {
		return nil, fmt.Errorf("fetch subscription %s: %w", id, readable(err))
	}
	if c := sub.Customer; sub.Metadata["tenant_id"] == "" && c != nil && c.ID != "" && c.Object == "" {
		if err := s.fetchCustomer(ctx, sub); err != nil {
			return nil, err
		}
	}
	return sub, nil
}

// fetchCustomer gets the customer of a subscription that came with its id
// alone: only the customer may say whose tenant it is.
func (s *Sync) fetchCustomer(ctx context.Context, sub *stripe.Subscription) error {
	params := &stripe.CustomerParams{}
	params.Context = ctx
	customer, err := s.stripe.Customers.Get(sub.Customer.ID, params)
	switch {
	case isGone(err): // it names no tenant; the subscription is there
		return nil
	case err != nil:
		return fmt.Errorf("fetch customer %s: %w", sub.Customer.ID, readable(err))
	}
	sub.Customer = customer
	return nil
}

// fetchInvoice gets the subscription and the customer that an invoice is for.
func (s *Sync) fetchInvoice(ctx context.Context, id string) (subscription, customer string, err error) {
	params := &stripe.InvoiceParams{}
	params.Context = ctx
	inv, err := s.stripe.Invoices.Get(id, params)
	if err != nil {
		return "", "", fmt.Errorf("fetch invoice %s: %w", id, readable(err))
	}
	if inv.Subscription != nil {
		subscription = inv.Subscription.ID
	}
	if inv.Customer != nil {
		customer = inv.Customer.ID
	}
	return subscription, customer, nil
}

// list goes through subscriptions of every status, page by page: a customer's,
// or with "" all.
func (s *Sync) list(ctx context.Context, customer string, each func(*stripe.Subscription) error) error {
	params := &stripe.SubscriptionListParams{Status: stripe.String("all")}
	params.Context = ctx
	params.Limit = stripe.Int64(pageSize)
	params.AddExpand("data.customer")
	if customer != "" {
		params.Customer = stripe.String(customer)
	}
	found := s.stripe.Subscriptions.List(params)
	for found.Next() {
		if err := each(found.Subscription()); err != nil {
			return err
		}
	}
	if err := found.Err(); err != nil {
		return fmt.Errorf("list subscriptions: %w", readable(err))
	}
	return nil
}
