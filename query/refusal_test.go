package query

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"odometer"
)

func TestRefusalsComeInTheContractsOrder(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	b.exec(`update stream_positions set complete_until = null`)
	refusal := func(tenant uuid.UUID, cause error, says string) {
		t.Helper()
		_, err := Usage(context.Background(), b.pool, tenant)
		if !errors.Is(err, cause) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %v with %q", err, cause, says)
		}
	}
	// Each tenant lacks all that comes later, too.
	refusal(uuid.New(), ErrNoSubscription, "no subscription")
	for _, status := range []odometer.Status{odometer.PastDue, odometer.Canceled, odometer.Expired} {
		refusal(b.subscribe(status, ""), ErrInactive, string(status))
	}
	unbegun := b.subscribe(odometer.Active, "")
	refusal(unbegun, ErrNotBegun, "no billing period")
	b.exec(`insert into billing_periods (tenant_id, period_start, period_end) values ($1, '2126-01-01Z', '2126-02-01Z')`, unbegun)
	refusal(unbegun, ErrNotBegun, "2126-01-01T00:00:00Z")
	refusal(b.customer(""), ErrNoPlan, "no plan")
	refusal(b.customer("price_bundle_monthly"), ErrNotRead, "not known yet")
}

func TestUnknownFreshnessIsNeverZero(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	tenant := b.customer("price_bundle_monthly")
	own := odometer.PartitionOf(tenant, partitions)
	b.exec(`update stream_positions set complete_until = null where partition <> $1`, own)
	if a := b.usage(tenant); a.AsOf.String() != "2026-11-23T07:15:33.120Z" {
		t.Errorf("as of %s: another partition matters", a.AsOf)
	}
	unknown := func() {
		t.Helper()
		if _, err := Usage(context.Background(), b.pool, tenant); !errors.Is(err, ErrNotRead) {
			t.Errorf("got %v, want %v", err, ErrNotRead)
		}
	}
	b.exec(`update stream_positions set complete_until = case when partition <> $1 then now() end`, own)
	unknown()
	b.exec(`delete from stream_positions`)
	unknown()
}

func TestOldFreshnessIsStillAnAnswer(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	tenant := b.customer("price_bundle_monthly")
	b.exec(`update stream_positions set complete_until = '2026-11-01T00:00:00.0009Z'`)
	if a := b.usage(tenant); a.AsOf.String() != "2026-11-01T00:00:00.000Z" {
		t.Errorf("as of %s", a.AsOf)
	}
}
