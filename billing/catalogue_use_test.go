package billing

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/migrations/pgtest"
)

func TestAnAgentThatCountsInAnOpenPeriodStays(t *testing.T) {
	t.Parallel()
	without := SampleCatalogue()
	without.Agents = without.Agents[:2]
	for i := range without.Plans {
		delete(without.Plans[i].Allowances, "meeting")
	}
	for _, row := range []struct {
		name   string
		counts []int    // one tenant each
		status []string // of the tenant's period
		inUse  int
	}{
		{"not counted", nil, nil, 0},
		{"counted to zero", []int{0}, []string{"open"}, 0},
		{"counted in a closed period", []int{5}, []string{"closed"}, 0},
		{"counted in an open period", []int{5}, []string{"open"}, 1},
		{"counted for several", []int{5, 0, 7, 9}, []string{"open", "open", "closed", "open"}, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t)
			apply(t, pool, SampleCatalogue())
			for i, count := range row.counts {
				tenant := subscribe(t, pool, "", "active")
				addPeriod(t, pool, tenant, "", row.status[i])
				execute(t, pool, `
					insert into usage_counters (tenant_id, agent, period_start, period_end, count)
					select tenant_id, 'meeting', period_start, period_end, $2 from billing_periods where tenant_id = $1`, tenant, count)
			}
			want := &InUseError{Agents: []InUse{{"meeting", row.inUse}}}
			checkRefusal(t, pool, without, want, row.inUse > 0)
		})
	}
}

func TestAPlanThatATenantIsOnStays(t *testing.T) {
	t.Parallel()
	const plan = "price_meetingpilot_monthly"
	without := SampleCatalogue()
	without.Plans = append(without.Plans[:2:2], without.Plans[3])
	for _, row := range []struct {
		name         string
		subscription string // status; its plan is the one that goes
		period       string // status of a period with the plan that goes, of another tenant
		inUse        int
	}{
		{"nobody", "", "", 0},
		{"a trial", "trial", "", 1},
		{"an active one", "active", "", 1},
		{"a late payer", "past_due", "", 1},
		{"a canceled one", "canceled", "", 1},
		{"an expired one", "expired", "", 1},
		{"a closed period", "", "closed", 0},
		{"an open period", "", "open", 1},
		{"both", "active", "open", 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t)
			apply(t, pool, SampleCatalogue())
			if row.subscription != "" {
				tenant := subscribe(t, pool, plan, row.subscription)
				addPeriod(t, pool, tenant, plan, "open")
			}
			if row.period != "" {
				tenant := subscribe(t, pool, "price_bundle_monthly", "active")
				addPeriod(t, pool, tenant, plan, row.period)
			}
			want := &InUseError{Plans: []InUse{{plan, row.inUse}}}
			checkRefusal(t, pool, without, want, row.inUse > 0)
		})
	}
}

func TestARefusalNamesEverythingThatIsInUse(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	apply(t, pool, SampleCatalogue())
	for range 2 {
		tenant := subscribe(t, pool, "price_bundle_monthly", "active")
		addPeriod(t, pool, tenant, "price_bundle_monthly", "open")
		execute(t, pool, `
			insert into usage_counters (tenant_id, agent, period_start, period_end, count)
			select tenant_id, unnest(array['inbox', 'invoice']), period_start, period_end, 3
			from billing_periods where tenant_id = $1`, tenant)
	}
	c := SampleCatalogue()
	c.Agents, c.Plans = c.Agents[2:], nil
	err := ApplyCatalogue(t.Context(), pool, c)
	want := &InUseError{
		Agents: []InUse{{"inbox", 2}, {"invoice", 2}},
		Plans:  []InUse{{"price_bundle_monthly", 2}},
	}
	var got *InUseError
	if !errors.As(err, &got) || !errors.Is(err, ErrRefused) {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	const said = `agent "inbox" (counted for 2 tenants in open periods), agent "invoice" (counted for 2 tenants in open periods), ` +
		`plan "price_bundle_monthly" (of 2 tenants): keep it in the file`
	if !strings.Contains(err.Error(), said) {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(SampleCatalogue(), load(t, pool)); diff != "" {
		t.Errorf("a refused change was made:\n%s", diff)
	}
}

// checkRefusal applies c and expects the refusal, or none.
func checkRefusal(t *testing.T, pool *pgxpool.Pool, c odometer.Catalogue, want *InUseError, refused bool) {
	t.Helper()
	before := load(t, pool)
	err := ApplyCatalogue(t.Context(), pool, c)
	if !refused {
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, load(t, pool)); diff != "" {
			t.Error(diff)
		}
		return
	}
	var got *InUseError
	if !errors.As(err, &got) {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before, load(t, pool)); diff != "" {
		t.Errorf("a refused change was made:\n%s", diff)
	}
}
