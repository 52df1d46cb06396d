package admin

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"odometer"
	"odometer/api"
	"odometer/query"
)

// everyKind is a tenant of each kind that there is, by what it is.
func (b *testEnv) everyKind() map[string]uuid.UUID {
	b.Helper()
	kinds := map[string]uuid.UUID{
		"within":        b.customer("bundle", 425),
		"over":          b.customer("bundle", 733),
		"not included":  b.customer("inbox_only", 3),
		"not begun":     b.subscribe(odometer.Active, "bundle"),
		"no period":     b.subscribe(odometer.Active, "bundle"),
		"without plan":  b.customer("", 5),
		"trial":         b.subscribe(odometer.Trial, "bundle"),
		"free trial":    b.subscribe(odometer.Trial, ""),
		"trial is over": b.subscribe(odometer.Trial, "bundle"),
		"lapsed":        b.subscribe(odometer.Trial, ""),
		"past due":      b.customer("bundle", 612),
		"canceled":      b.subscribe(odometer.Canceled, "bundle"),
		"frozen":        b.customer("inbox_only", 900),
		"unlimited":     b.customer("bundle", 1),
		"second period": b.customer("inbox_only", 5_000),
	}
	b.count(kinds["not included"], "invoice", 12)
	b.count(kinds["unlimited"], "meeting", 100_000)
	b.period(kinds["not begun"], at(day), at(2*day))
	for _, kind := range []string{"trial", "free trial", "trial is over", "lapsed"} {
		b.period(kinds[kind], at(-5*day), at(5*day))
		b.count(kinds[kind], "inbox", 2_000)
	}
	b.exec(`update subscriptions set trial_ends_at = now() - interval '1 hour' where tenant_id = any($1)`,
		[]uuid.UUID{kinds["trial is over"], kinds["lapsed"]})
	b.exec(`update billing_periods set trial = false where tenant_id = $1`, kinds["trial is over"])
	b.exec(`update subscriptions set status = 'past_due', stripe_customer = 'cus_late' where tenant_id = $1`, kinds["past due"])
	b.period(kinds["canceled"], at(-20*day), at(-10*day))
	b.count(kinds["canceled"], "inbox", 700)
	b.freeze(kinds["canceled"])
	b.freeze(kinds["frozen"])
	b.exec(`update period_allowances set "limit" = 100, unit_price = 9.99 where tenant_id = $1`, kinds["frozen"])
	b.exec(`update billing_periods set period_start = now() - interval '40 days', period_end = now() - interval '5 days', frozen_at = now()
		where tenant_id = $1`, kinds["second period"])
	b.period(kinds["second period"], at(-5*day), at(25*day))
	b.count(kinds["second period"], "inbox", 7)
	return kinds
}

// An operator's list says of a tenant what the tenant's own answer says.
func TestTenantsHaveTheSameUsageAsTheUsageRoute(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	kinds := b.everyKind()
	for kind, id := range kinds {
		detail := get[*TenantDetail](t)(tenantDetail(t.Context(), b.pool, id))
		got := detail.Tenant
		usage, err := query.UsageOfAnyStatus(t.Context(), b.pool, id)
		if kind == "not begun" || kind == "no period" {
			if err == nil || len(got.Usage) != 0 || got.PeriodStart != nil || got.Plan != nil || got.Status != odometer.Active {
				t.Errorf("%s: %+v, %v", kind, got, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if diff := cmp.Diff(usage.Usage, got.Usage); diff != "" {
			t.Errorf("%s: %s", kind, diff)
		}
		if got.TotalOverageCostCents != usage.TotalOverageCostCents || !got.PeriodStart.Equal(usage.PeriodStart) || !got.PeriodEnd.Equal(usage.PeriodEnd) ||
			(got.Plan == nil) != (usage.Plan == nil) || got.Plan != nil && (got.Plan.ID != usage.Plan.ID || got.Plan.Name != usage.Plan.Name) {
			t.Errorf("%s: %+v, its usage says %+v", kind, got, usage)
		}
		if detail.AsOf == nil || detail.AsOf.String() != usage.AsOf.String() {
			t.Errorf("%s: as of %v", kind, detail.AsOf)
		}
	}
	for kind, status := range map[string]odometer.Status{"trial is over": odometer.Active, "lapsed": odometer.Expired, "trial": odometer.Trial, "canceled": odometer.Canceled} {
		if d := get[*TenantDetail](t)(tenantDetail(t.Context(), b.pool, kinds[kind])); d.Tenant.Status != status {
			t.Errorf("%s has the status %s", kind, d.Tenant.Status)
		}
	}
	if cost := get[*TenantDetail](t)(tenantDetail(t.Context(), b.pool, kinds["frozen"])).Tenant.TotalOverageCostCents; cost != 800*999 {
		t.Errorf("what was frozen costs %d", cost)
	}
}

// Who has neither a plan nor a trial is not like one whom nothing limits.
func TestAMissingPlanIsNoTrial(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	kinds := b.everyKind()
	page := get[*TenantList](t)(listTenants(t.Context(), b.pool, tenantFilter{Sort: byTenant, Limit: 200}))
	for _, tenant := range page.Tenants {
		for kind, id := range kinds {
			trial := kind == "trial" || kind == "free trial" || kind == "lapsed"
			if id == tenant.TenantID && tenant.Trial != trial {
				t.Errorf("%s is a trial: %v, with plan %v", kind, tenant.Trial, tenant.Plan)
			}
		}
	}
}

// Page by page each tenant comes once, in the order that was asked for.
func TestPagesHoldEachTenantOnceInOrder(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	kinds := b.everyKind()
	for range 25 { // many of the same amount
		kinds[uuid.NewString()] = b.customer("bundle", 500+rand.Int64N(3))
	}
	for _, order := range []string{byOverage, byUsage, byTenant} {
		f := tenantFilter{Sort: order, Limit: 7}
		var all []Tenant
		for {
			page := get[*TenantList](t)(listTenants(t.Context(), b.pool, f))
			if page.Total != int64(len(kinds)) || page.AsOf == nil {
				t.Fatalf("by %s: total %d as of %v, want %d", order, page.Total, page.AsOf, len(kinds))
			}
			all = append(all, page.Tenants...)
			if page.NextCursor == nil {
				break
			}
			if len(page.Tenants) != f.Limit {
				t.Fatalf("a page of %d", len(page.Tenants))
			}
			f.Cursor = *page.NextCursor
		}
		seen := map[uuid.UUID]bool{}
		for i, tenant := range all {
			seen[tenant.TenantID] = true
			if i > 0 && !inOrder(order, all[i-1], tenant) {
				t.Errorf("by %s: %+v before %+v", order, all[i-1], tenant)
			}
		}
		if len(seen) != len(kinds) || len(all) != len(kinds) {
			t.Errorf("by %s: %d tenants, %d of them once; want %d", order, len(all), len(seen), len(kinds))
		}
		f.Cursor = *api.WriteCursor(tenantCursor{-1, uuid.Max}, f.name()...)
		if page := get[*TenantList](t)(listTenants(t.Context(), b.pool, f)); len(page.Tenants) != 0 || page.Total != int64(len(kinds)) || page.NextCursor != nil {
			t.Errorf("by %s: after the last %+v", order, page)
		}
	}
}

func inOrder(order string, one, two Tenant) bool {
	byID := one.TenantID.String() < two.TenantID.String()
	switch order {
	case byOverage:
		return one.TotalOverageCostCents > two.TotalOverageCostCents || one.TotalOverageCostCents == two.TotalOverageCostCents && byID
	case byUsage:
		return one.TotalCount > two.TotalCount || one.TotalCount == two.TotalCount && byID
	}
	return byID
}

func TestTenantsAreFoundByIDCustomerAndStatus(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	kinds := b.everyKind()
	b.exec(`update subscriptions set tenant_id = tenant_id, stripe_customer = 'cus_%' where tenant_id = $1`, kinds["no period"])
	b.deadLetter(1, kinds["over"], odometer.Malformed, "{}")
	b.deadLetter(2, kinds["over"], odometer.UnknownAction, "{}")
	over := kinds["over"].String()
	for _, c := range []struct {
		filter tenantFilter
		want   []string
	}{
		{tenantFilter{Search: over}, []string{"over"}},
		{tenantFilter{Search: strings.ToUpper(over[:12])}, []string{"over"}},
		{tenantFilter{Search: over[:9]}, []string{"over"}},
		{tenantFilter{TenantID: over}, []string{"over"}},
		{tenantFilter{TenantID: strings.ToUpper(over), Status: "past_due"}, nil},
		{tenantFilter{Search: over + "0"}, nil},
		{tenantFilter{Search: over[1:]}, nil},
		{tenantFilter{Search: "cus_"}, []string{"no period", "past due"}},
		{tenantFilter{Search: "cus_late"}, []string{"past due"}},
		{tenantFilter{Search: "cus_%"}, []string{"no period"}},
		{tenantFilter{Search: "late"}, nil},
		{tenantFilter{Search: "cus_", Status: "active"}, []string{"no period"}},
		{tenantFilter{Status: "past_due"}, []string{"past due"}},
		{tenantFilter{Status: "expired"}, []string{"lapsed"}},
		{tenantFilter{Status: "trial"}, []string{"free trial", "trial"}},
	} {
		for _, order := range []string{byOverage, byTenant} {
			c.filter.Sort, c.filter.Limit = order, 10
			page := get[*TenantList](t)(listTenants(t.Context(), b.pool, c.filter))
			var got []string
			for kind, id := range kinds {
				if slices.ContainsFunc(page.Tenants, func(t Tenant) bool { return t.TenantID == id }) {
					got = append(got, kind)
				}
			}
			slices.Sort(got)
			if fmt.Sprint(got) != fmt.Sprint(c.want) || page.Total != int64(len(c.want)) {
				t.Errorf("%+v: %q of %d, want %q", c.filter, got, page.Total, c.want)
			}
			for _, tenant := range page.Tenants {
				if want := map[bool]int64{true: 2}[tenant.TenantID == kinds["over"]]; tenant.OpenDeadLetters != want {
					t.Errorf("%d open dead letters, want %d", tenant.OpenDeadLetters, want)
				}
			}
		}
	}
}

// What the overview says that all overage costs is what the tenants' come to.
func TestTheOverageOfAllIsTheSumOfEach(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	var want int64
	kinds := b.everyKind()
	page := get[*TenantList](t)(listTenants(t.Context(), b.pool, tenantFilter{Sort: byTenant, Limit: 200}))
	for _, tenant := range page.Tenants {
		ended := tenant.TenantID == kinds["canceled"] || tenant.TenantID == kinds["frozen"]
		if !ended {
			want += tenant.TotalOverageCostCents
		}
	}
	if got := get[tenantTotals](t)(loadTenantTotals(t.Context(), b.pool)); got.OverageCostCents != want || want == 0 {
		t.Errorf("all overage costs %d, the tenants' comes to %d", got.OverageCostCents, want)
	}
}

// What no figure can hold is shown as the largest, and keeps nobody from the
// rest.
func TestAnOverflowingPriceDoesNotBreakTheList(t *testing.T) {
	t.Parallel()
	b := newTestEnv(t)
	b.exec(`update agents set unit_price = 999999999999.999999999999 where agent <> 'meeting'`)
	within, over := b.customer("bundle", 425), b.customer("bundle", 1_000_000_000)
	b.count(over, "invoice", 1_000_000_000)
	list := get[*TenantList](t)(listTenants(t.Context(), b.pool, tenantFilter{Sort: byOverage, Limit: 50}))
	if len(list.Tenants) != 2 || list.Tenants[0].TenantID != over || list.Tenants[1].TenantID != within {
		t.Fatalf("%+v", list.Tenants)
	}
	first := &list.Tenants[0]
	if first.TotalOverageCostCents != math.MaxInt64 || first.agent("inbox").OverageCostCents != math.MaxInt64 {
		t.Errorf("%+v", first)
	}
	tenantTotals := get[tenantTotals](t)(loadTenantTotals(t.Context(), b.pool))
	if tenantTotals.OverageCostCents != math.MaxInt64 {
		t.Errorf("the overage of all costs %d", tenantTotals.OverageCostCents)
	}
}
