package billing

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

	"odometer"
	"odometer/migrations/pgtest"
)

func TestLoadingWithoutACatalogueNamesTheCommand(t *testing.T) {
	t.Parallel()
	_, err := LoadCatalogue(t.Context(), pgtest.New(t))
	if !errors.Is(err, ErrNoCatalogue) {
		t.Errorf("got %v", err)
	}
}

func TestAnAppliedCatalogueIsLoadedUnchanged(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	rapid.Check(t, func(t *rapid.T) {
		c := anyCatalogue().Draw(t, "catalogue")
		if err := ApplyCatalogue(context.Background(), pool, c); err != nil {
			t.Fatal(err)
		}
		got, err := LoadCatalogue(context.Background(), pool)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestAChangedCatalogueRaisesTheRulesVersionAndAnEqualOneDoesNot(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	execute(t, pool, `insert into stream_epochs (epoch, first_seq, stream_created, partitions) values (1, 1, now(), 2)`)
	execute(t, pool, `insert into stream_positions (partition, stream_epoch, seq) values (0, 1, 0), (1, 1, 0)`)
	for i, change := range []func(*odometer.Catalogue){
		func(*odometer.Catalogue) {},
		func(c *odometer.Catalogue) { c.Agents[0].UnitPrice = decimal.RequireFromString("0.03") },
		func(c *odometer.Catalogue) { c.Plans = c.Plans[:3] },
	} {
		c := SampleCatalogue()
		change(&c)
		for range 2 {
			apply(t, pool, c)
			var low, high int
			if err := pool.QueryRow(t.Context(), `select min(rules_version), max(rules_version) from stream_positions`).Scan(&low, &high); err != nil {
				t.Fatal(err)
			}
			if low != i+1 || high != i+1 {
				t.Errorf("after change %d the rules versions are %d to %d", i+1, low, high)
			}
		}
	}
}

func TestAgentsMayExchangeTheirNames(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	c := SampleCatalogue()
	apply(t, pool, c)
	a, b := &c.Agents[0], &c.Agents[1]
	a.LimitKey, b.LimitKey = b.LimitKey, a.LimitKey
	a.Meter, b.Meter = b.Meter, a.Meter
	a.Actions, b.Actions = b.Actions, a.Actions
	c.Agents[0], c.Agents[2] = c.Agents[2], c.Agents[0]
	apply(t, pool, c)
	if diff := cmp.Diff(c, load(t, pool)); diff != "" {
		t.Error(diff)
	}
}

func TestAnEndedPeriodKeepsItsLimitsAndPrices(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	apply(t, pool, SampleCatalogue())
	tenant := subscribe(t, pool, "price_inboxpilot_monthly", "active")
	addPeriod(t, pool, tenant, "price_inboxpilot_monthly", "open")
	execute(t, pool, `
		update billing_periods
		set period_start = now() - interval '40 days',
		    period_end = now() - interval '10 days'`)

	c := SampleCatalogue()
	c.Agents[0].UnitPrice = decimal.RequireFromString("9.99")
	c.Plans[0].Allowances["inbox"] = odometer.Allowance{Limit: 1}
	apply(t, pool, c)

	var limit int
	var price decimal.Decimal
	err := pool.QueryRow(t.Context(), `
		select "limit", unit_price from period_allowances where tenant_id = $1 and agent = 'inbox'`, tenant).Scan(&limit, &price)
	if err != nil {
		t.Fatal(err)
	}
	if limit != 500 || price.String() != "0.02" {
		t.Errorf("the ended period has limit %d and price %s", limit, price)
	}
}

func TestCataloguesAppliedAtOnceDoNotMix(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	first, second := SampleCatalogue(), SampleCatalogue()
	second.Currency = "eur"
	second.Agents = second.Agents[1:]
	second.Plans = second.Plans[1:2]
	texts := []string{string(formatted(t, first)), string(formatted(t, second))}
	var writers sync.WaitGroup
	for i := range 40 {
		writers.Go(func() {
			c := []odometer.Catalogue{first, second}[i%2]
			if err := ApplyCatalogue(t.Context(), pool, c); err != nil {
				t.Error(err)
			}
			got, err := LoadCatalogue(t.Context(), pool)
			if err != nil {
				t.Error(err)
			}
			if text := string(formatted(t, got)); text != texts[0] && text != texts[1] {
				t.Errorf("a mixture is in force:\n%s", text)
			}
		})
	}
	writers.Wait()
}

func apply(t *testing.T, pool *pgxpool.Pool, c odometer.Catalogue) {
	t.Helper()
	if err := ApplyCatalogue(t.Context(), pool, c); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, pool *pgxpool.Pool) odometer.Catalogue {
	t.Helper()
	c, err := LoadCatalogue(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// subscribe stores a tenant's subscription without its periods.
func subscribe(t *testing.T, pool *pgxpool.Pool, plan, status string) uuid.UUID {
	t.Helper()
	tenant := uuid.New()
	execute(t, pool, `
		insert into subscriptions (tenant_id, plan_id, status, period_interval, anchor)
		values ($1, nullif($2, ''), $3, 'month', now())`, tenant, plan, status)
	return tenant
}

// addPeriod stores a period that contains now.
func addPeriod(t *testing.T, pool *pgxpool.Pool, tenant uuid.UUID, plan, status string) {
	t.Helper()
	now := time.Now().UTC()
	execute(t, pool, `
		insert into billing_periods (tenant_id, period_start, period_end, plan_id, status, closed_epoch, closed_seq, closed_at)
		select $1, $2, $3, nullif($4, ''), $5, c.epoch, c.seq, c.at
		from (values ('open', null, null, null), ('closed', 1, 1, now())) as c (status, epoch, seq, at)
		where c.status = $5`, tenant, now.Add(-time.Hour), now.Add(time.Hour), plan, status)
}

func execute(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

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

func TestInUseErrorNamesAllAgentsAndPlans(t *testing.T) {
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
