package billing

import (
	"context"
	"errors"
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

func TestWithoutACatalogueLoadingSaysWhatToDo(t *testing.T) {
	t.Parallel()
	_, err := LoadCatalogue(t.Context(), pgtest.New(t))
	if !errors.Is(err, ErrNoCatalogue) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsAppliedIsInForce(t *testing.T) {
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

func TestAChangeOfTheCatalogueRaisesTheTermsAndARepetitionDoesNot(t *testing.T) {
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
				t.Errorf("after change %d the terms are %d to %d", i+1, low, high)
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

func TestAPeriodThatHasEndedKeepsTheTermsOfItsEnd(t *testing.T) {
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
