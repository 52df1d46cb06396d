package billing

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"odometer"
	"odometer/migrations/pgtest"
)

var acme = uuid.MustParse("0b7e4d1c-6f0e-4a53-9d55-3c1c0a3f7e01")

func day(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s+"T00:00:00Z")
	if err != nil {
		panic(err)
	}
	return t
}

// withSample is a database with the sample catalogue and four partitions.
func withSample(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.New(t)
	if err := ApplyCatalogue(t.Context(), pool, SampleCatalogue()); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `insert into stream_epochs values (1, 1, now(), 4)`)
	exec(t, pool, `insert into stream_positions (partition, stream_epoch, seq) select p, 1, 0 from generate_series(0, 3) p`)
	return pool
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func number(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (n int64) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func bundle(start, end string) SubscriptionChange {
	return SubscriptionChange{
		Tenant: acme, PlanID: "price_bundle_monthly", Status: odometer.Active, Interval: odometer.Monthly,
		Start: day(start), End: day(end),
	}
}

func set(t *testing.T, pool *pgxpool.Pool, a SubscriptionChange, now string) []string {
	t.Helper()
	after, err := Set(t.Context(), pool, a, day(now))
	if err != nil {
		t.Fatal(err)
	}
	return spans(after)
}

func spans(t *Tenant) (spans []string) {
	for _, p := range t.Periods {
		kind := ""
		if p.Trial {
			kind = " trial"
		}
		spans = append(spans, p.Start.UTC().Format(time.DateOnly)+" "+p.End.UTC().Format(time.DateOnly)+kind)
	}
	return spans
}

func wantSpans(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("periods (-want +got):\n%s", diff)
	}
}

// addEvent stores an event and its count as the aggregator would.
func addEvent(t *testing.T, pool *pgxpool.Pool, occurred time.Time, quantity int64) {
	t.Helper()
	const sql = `
		with home as (
			select period_start, period_end from billing_periods
			where tenant_id = $1 and period_start <= $2 and period_end > $2
		), stored as (
			insert into usage_events
			select $1, gen_random_uuid(), 'inbox', 'usage', 'email_processed', null, $3::bigint, gen_random_uuid(), null, $2, $2, period_start, 1, 1
			from home
			returning period_start
		)
		insert into usage_counters (tenant_id, agent, period_start, period_end, count)
		select $1, 'inbox', period_start, period_end, $3::bigint from home where exists (select from stored)
		on conflict (tenant_id, agent, period_start) do update set count = usage_counters.count + excluded.count`
	exec(t, pool, sql, acme, occurred, quantity)
}

func counts(t *testing.T, pool *pgxpool.Pool) map[string]int64 {
	t.Helper()
	rows, err := pool.Query(t.Context(), `select period_start, count from usage_counters where tenant_id = $1`, acme)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int64{}
	for rows.Next() {
		var start time.Time
		var count int64
		if err := rows.Scan(&start, &count); err != nil {
			t.Fatal(err)
		}
		found[start.UTC().Format(time.DateOnly)] = count
	}
	return found
}

func TestSettingTheSameAgainChangesNothing(t *testing.T) {
	t.Parallel()
	pool := withSample(t)
	first := set(t, pool, bundle("2026-01-31", "2026-02-28"), "2026-04-05")
	wantSpans(t, first, "2026-01-31 2026-02-28", "2026-02-28 2026-03-31", "2026-03-31 2026-04-30")
	wantSpans(t, set(t, pool, bundle("2026-01-31", "2026-02-28"), "2026-04-05"), first...)
	// Stated by its running period, the subscription keeps its anchor.
	wantSpans(t, set(t, pool, bundle("2026-03-31", "2026-04-30"), "2026-05-02"), append(first, "2026-04-30 2026-05-31")...)
}

func TestALaterStartEndsTheRunningPeriodAndMovesWhatFollowed(t *testing.T) {
	t.Parallel()
	pool := withSample(t)
	set(t, pool, bundle("2026-11-01", "2026-12-01"), "2026-11-20")
	addEvent(t, pool, day("2026-11-05"), 3)
	addEvent(t, pool, day("2026-11-10"), 4)
	addEvent(t, pool, day("2026-11-15"), 5)
	wantSpans(t, set(t, pool, bundle("2026-11-10", "2026-12-10"), "2026-11-20"),
		"2026-11-01 2026-11-10", "2026-11-10 2026-12-10")
	if diff := cmp.Diff(map[string]int64{"2026-11-01": 3, "2026-11-10": 9}, counts(t, pool)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if n := number(t, pool, `select count(*) from usage_counters c join billing_periods p using (tenant_id, period_start) where c.period_end <> p.period_end`); n != 0 {
		t.Errorf("%d counters do not end with their period", n)
	}
}

func TestAnEarlierStartExtendsThePeriod(t *testing.T) {
	t.Parallel()
	pool := withSample(t)
	set(t, pool, bundle("2026-11-10", "2026-12-10"), "2026-11-20")
	addEvent(t, pool, day("2026-11-15"), 5)
	wantSpans(t, set(t, pool, bundle("2026-11-01", "2026-12-01"), "2026-11-20"), "2026-11-01 2026-12-01")
	if diff := cmp.Diff(map[string]int64{"2026-11-01": 5}, counts(t, pool)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestAnEndedPeriodIsNotMadePartOfALongerOne(t *testing.T) {
	t.Parallel()
	pool := withSample(t)
	before := set(t, pool, bundle("2026-10-14", "2026-11-13"), "2026-11-20")
	for _, c := range [][2]string{{"2026-09-24", "2026-12-03"}, {"2026-10-14", "2026-12-03"}} {
		if _, err := Set(t.Context(), pool, bundle(c[0], c[1]), day("2026-11-20")); !errors.Is(err, ErrRefused) {
			t.Errorf("%v: %v, want a refusal", c, err)
		}
	}
	wantSpans(t, spans(loadAcme(t, pool)), before...)
	wantSpans(t, set(t, pool, bundle("2026-10-14", "2026-11-01"), "2026-11-20"), "2026-10-14 2026-11-01", "2026-11-01 2026-12-01")
}

func TestAClosedPeriodIsNeverTouched(t *testing.T) {
	t.Parallel()
	pool := withSample(t)
	set(t, pool, bundle("2026-09-01", "2026-10-01"), "2026-11-20")
	exec(t, pool, `update billing_periods set status = 'closed', closed_epoch = 1, closed_seq = 9, closed_at = now() where period_start = $1`, day("2026-09-01"))
	for _, start := range []string{"2026-09-01", "2026-09-15", "2026-08-01"} {
		if _, err := Set(t.Context(), pool, bundle(start, "2026-12-01"), day("2026-11-20")); !errors.Is(err, ErrRefused) {
			t.Errorf("start %s: %v, want a refusal", start, err)
		}
	}
	wantSpans(t, set(t, pool, bundle("2026-10-01", "2026-11-01"), "2026-11-20"),
		"2026-09-01 2026-10-01", "2026-10-01 2026-11-01", "2026-11-01 2026-12-01")
}

func TestAPlanMustBeInTheCatalogue(t *testing.T) {
	t.Parallel()
	pool := withSample(t)
	a := bundle("2026-11-01", "2026-12-01")
	a.PlanID = "price_of_everything"
	if _, err := Set(t.Context(), pool, a, day("2026-11-20")); !errors.Is(err, ErrRefused) {
		t.Errorf("%v, want a refusal", err)
	}
}

func TestATrialWithoutAPlanExpiresByItself(t *testing.T) {
	t.Parallel()
	pool := withSample(t)
	ends := day("2026-11-10")
	a := bundle("2026-11-01", "2026-12-01")
	a.PlanID, a.Status, a.TrialEndsAt = "", odometer.Trial, &ends
	wantSpans(t, set(t, pool, a, "2026-11-05"), "2026-11-01 2026-11-10 trial")
	rollOver(t, pool, "2026-11-11")
	after := loadAcme(t, pool)
	wantSpans(t, spans(after), "2026-11-01 2026-11-10 trial")
	if after.Subscription.Status != odometer.Expired {
		t.Errorf("status %s, want expired", after.Subscription.Status)
	}
}

func TestACanceledTrialStaysFree(t *testing.T) {
	t.Parallel()
	pool := withSample(t)
	a := bundle("2026-11-01", "2026-12-01")
	a.Status = odometer.Trial
	set(t, pool, a, "2026-11-05")
	a.Status = odometer.Canceled
	wantSpans(t, set(t, pool, a, "2026-11-06"), "2026-11-01 2026-12-01 trial")
}

func rollOver(t *testing.T, pool *pgxpool.Pool, now string) {
	t.Helper()
	due, err := Due(t.Context(), pool, day(now), 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := RollOver(t.Context(), pool, due, day(now), day(now)); err != nil {
		t.Fatal(err)
	}
}

func loadAcme(t *testing.T, pool *pgxpool.Pool) *Tenant {
	t.Helper()
	found, err := Load(t.Context(), pool, acme)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestAnEndedPeriodKeepsItsPlan(t *testing.T) {
	t.Parallel()
	pool := withSample(t)
	set(t, pool, bundle("2026-10-01", "2026-11-01"), "2026-10-20")
	rollOver(t, pool, "2026-11-02")
	rollOver(t, pool, "2026-11-02")
	wantSpans(t, spans(loadAcme(t, pool)), "2026-10-01 2026-11-01", "2026-11-01 2026-12-01")

	dearer := SampleCatalogue()
	dearer.Plans[3].Allowances["inbox"] = odometer.Allowance{Limit: 1}
	if err := ApplyCatalogue(t.Context(), pool, dearer); err != nil {
		t.Fatal(err)
	}
	other := bundle("2026-11-01", "2026-12-01")
	other.PlanID = "price_inboxpilot_monthly"
	set(t, pool, other, "2026-11-03")
	if got := number(t, pool, `select "limit" from period_allowances where agent = 'inbox' and period_start = $1`, day("2026-10-01")); got != 500 {
		t.Errorf("October's limit became %d", got)
	}
	if got := number(t, pool, `select count(*) from billing_periods where plan_id = 'price_bundle_monthly'`); got != 1 {
		t.Errorf("%d periods have the old plan, want October alone", got)
	}
}

func TestRollingOverForAnOldEventCreatesAllDuePeriods(t *testing.T) {
	t.Parallel()
	pool := withSample(t)
	set(t, pool, bundle("2026-08-01", "2026-09-01"), "2026-08-20")
	if err := RollOver(t.Context(), pool, []uuid.UUID{acme}, day("2026-11-20"), day("2026-09-05")); err != nil {
		t.Fatal(err)
	}
	wantSpans(t, spans(loadAcme(t, pool)), "2026-08-01 2026-09-01", "2026-09-01 2026-10-01", "2026-10-01 2026-11-01", "2026-11-01 2026-12-01")
}

func TestAPlanChangeDoesNotActOnAPeriodThatHasEnded(t *testing.T) {
	t.Parallel()
	for _, rolled := range []bool{true, false} { // whether the rollover came first must not matter
		pool := withSample(t)
		set(t, pool, bundle("2026-10-01", "2026-11-01"), "2026-10-20")
		if rolled {
			rollOver(t, pool, "2026-11-02")
		}
		other := bundle("2026-10-01", "2026-11-01")
		other.PlanID = "price_inboxpilot_monthly"
		set(t, pool, other, "2026-11-02")
		after := loadAcme(t, pool)
		if after.Periods[0].PlanID != "price_bundle_monthly" || after.Periods[1].PlanID != "price_inboxpilot_monthly" {
			t.Errorf("rolled over before %v: plans %s, then %s", rolled, after.Periods[0].PlanID, after.Periods[1].PlanID)
		}
	}
}

func TestAnEventAheadOfItsTimeKeepsItsPeriodWhenThePlanChanges(t *testing.T) {
	t.Parallel()
	pool := withSample(t)
	set(t, pool, bundle("2026-10-01", "2026-11-01"), "2026-10-20")
	eve := day("2026-11-01").Add(-2 * time.Minute)
	if err := RollOver(t.Context(), pool, []uuid.UUID{acme}, eve, eve.Add(odometer.MaxAhead)); err != nil {
		t.Fatal(err)
	}
	addEvent(t, pool, day("2026-11-01").Add(time.Minute), 1)
	other := bundle("2026-10-01", "2026-11-01")
	other.PlanID = "price_inboxpilot_monthly"
	if _, err := Set(t.Context(), pool, other, eve); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int64{"2026-11-01": 1}, counts(t, pool)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestEveryChangeRaisesTheRulesVersionOfItsPartition(t *testing.T) {
	t.Parallel()
	pool := withSample(t)
	rulesVersion := func(partition int) int64 {
		return number(t, pool, `select rules_version from stream_positions where partition = $1`, partition)
	}
	own := odometer.PartitionOf(acme, 4)
	before, other := rulesVersion(own), rulesVersion((own+1)%4)
	set(t, pool, bundle("2026-11-01", "2026-12-01"), "2026-11-20")
	if rulesVersion(own) != before+1 || rulesVersion((own+1)%4) != other {
		t.Errorf("rules version %d and %d, want %d and %d", rulesVersion(own), rulesVersion((own+1)%4), before+1, other)
	}
	rollOver(t, pool, "2026-12-02")
	if rulesVersion(own) != before+2 {
		t.Errorf("rules version %d after the rollover, want %d", rulesVersion(own), before+2)
	}
}

// However a subscription is set again and again, its periods follow one
// another, each event lies in one of them, and each counter is the sum of its
// events.
func TestNoChangeLosesOrDoublesUsage(t *testing.T) {
	t.Parallel()
	pool := withSample(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	now := day("2026-10-10")
	refused := 0
	intervals := []odometer.Interval{odometer.Daily, odometer.Weekly, odometer.Monthly, odometer.Once}
	statuses := []odometer.Status{odometer.Active, odometer.Trial, odometer.PastDue, odometer.Canceled}
	stored := int64(0)
	for step := range 120 {
		a := bundle("2026-10-01", "2026-10-02")
		a.Start = day("2026-10-01").AddDate(0, 0, r.IntN(50))
		a.End = a.Start.AddDate(0, 0, 1+r.IntN(40))
		a.Interval, a.Status = intervals[r.IntN(4)], statuses[r.IntN(4)]
		if ends := a.Start.AddDate(0, 0, 1+r.IntN(20)); r.IntN(2) == 0 {
			a.TrialEndsAt = &ends
		}
		if _, err := Set(t.Context(), pool, a, now); errors.Is(err, ErrRefused) {
			refused++ // it would have taken in a period that has ended
		} else if err != nil {
			t.Fatalf("step %d, %+v: %v", step, a, err)
		}
		for range 5 {
			addEvent(t, pool, day("2026-11-20").Add(-time.Duration(r.IntN(50*24))*time.Hour), int64(1+r.IntN(9)))
		}
		for law, sql := range usageLaws {
			if n := number(t, pool, sql); n != 0 {
				t.Fatalf("step %d, %+v: %d %s", step, a, n, law)
			}
		}
		events := number(t, pool, `select count(*) from usage_events`)
		if events < stored {
			t.Fatalf("step %d: %d events, before there were %d", step, events, stored)
		}
		stored = events
	}
	if stored < 100 || refused > 100 {
		t.Fatalf("only %d events found a period, %d changes were refused", stored, refused)
	}
	fmt.Fprintln(t.Output(), stored, "events moved about,", refused, "changes refused")
}

var usageLaws = map[string]string{
	"events without a period": `
		select count(*) from usage_events e
		where not exists (select from billing_periods p where p.tenant_id = e.tenant_id and p.period_start = e.period_start)`,
	"counters that are not the sum of their events": `
		select count(*) from (select tenant_id, agent, period_start, sum(quantity) as quantity from usage_events group by 1, 2, 3) e
		full join usage_counters c using (tenant_id, agent, period_start)
		where coalesce(e.quantity, 0) <> coalesce(c.count, 0)`,
	"events in another period than the one that contains them": `
		select count(*) from usage_events e join billing_periods p using (tenant_id, period_start)
		where exists (
			select from billing_periods o
			where o.tenant_id = e.tenant_id and o.period_start <= e.occurred_at and o.period_end > e.occurred_at
				and o.period_start <> p.period_start)`,
	"counters that end at another time than their period": `
		select count(*) from usage_counters c join billing_periods p using (tenant_id, period_start) where c.period_end <> p.period_end`,
}
