package subscriptions

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/stripe/stripe-go/v76"
)

// Kinds of findings. The subject is the subscription's id, of KindMeterError
// and KindHookStuck the hook's.
const (
	KindUnknownPrice       = "unknown_price"
	KindZeroPeriod         = "zero_period"
	KindBadTenantID        = "bad_tenant_id"
	KindUnknownCustomer    = "unknown_customer"
	KindTenantChanged      = "tenant_changed"
	KindCustomerDeleted    = "customer_deleted"
	KindSecondSubscription = "second_subscription"
	KindRefused            = "subscription_refused"
	KindGone               = "subscription_gone"
	KindMeterError         = "stripe_meter_error"
	KindHookStuck          = "stripe_hook_stuck"
)

// kinds are those that go away by themselves when the subscription is right.
var kinds = []string{
	KindUnknownPrice, KindZeroPeriod, KindBadTenantID, KindUnknownCustomer, KindTenantChanged,
	KindCustomerDeleted, KindSecondSubscription, KindRefused, KindGone,
}

// Who finds: a hook, or the job.
const (
	byHook = "stripe hook"
	byJob  = "subscriptions"
)

func finding(kind string, tenant uuid.UUID, format string, args ...any) verdict {
	return verdict{kind: kind, tenant: tenant, outcome: fmt.Sprintf(format, args...)}
}

func pricesOf(sub *stripe.Subscription) string {
	var ids []string
	if sub.Items != nil {
		for _, item := range sub.Items.Data {
			if item.Price != nil {
				ids = append(ids, item.Price.ID)
			}
		}
	}
	if len(ids) == 0 {
		return "(none)"
	}
	return strings.Join(ids, ", ")
}

func customerOf(sub *stripe.Subscription) string {
	if sub.Customer == nil || sub.Customer.ID == "" {
		return "(none)"
	}
	return sub.Customer.ID
}
