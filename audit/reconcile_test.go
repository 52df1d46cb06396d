package audit

import (
	"strings"
	"testing"

	"github.com/google/uuid"
)

// changed is a counter of some size in a running period, moved by percent.
func (h *house) change(sql string) (tenant uuid.UUID) {
	h.t.Helper()
	err := h.pool.QueryRow(h.t.Context(), sql).Scan(&tenant)
	if err != nil {
		h.t.Fatal(err)
	}
	return tenant
}

const someCounter = `ctid = (select ctid from usage_counters where agent = 'inbox' order by count desc, tenant_id limit 1) returning tenant_id`

func TestASmallDriftIsRepairedAndOnRecord(t *testing.T) {
	t.Parallel()
	h := filled(t)
	for _, row := range []struct {
		sql  string
		told bool // operators
	}{
		{`update usage_counters set count = count + 1 where ` + someCounter, false},
		{`update usage_counters set count = count * 103 / 100 where ` + someCounter, true},
		{`update usage_counters set count = count * 97 / 100 where ` + someCounter, true},
	} {
		h.exec(`delete from audit_findings`)
		h.change(row.sql)
		r := h.reconcile(false)
		if !r.Done() || len(r.Repaired) != 1 {
			t.Errorf("%s: %+v", row.sql, r)
		}
		h.finds(Scope{})
		n := h.number(`select count(*) from audit_findings
			where kind = 'counter_drift' and before is not null and after is not null and found_by = 'a test'
			  and resolved_by = 'a test' and resolved_at is not null and resolution like 'set from%' and (notified_at is null) = $1`, row.told)
		if n != 1 {
			t.Errorf("%s: %d records of the repair, want 1", row.sql, n)
		}
	}
}

func TestALargeDriftWaitsForForce(t *testing.T) {
	t.Parallel()
	h := filled(t)
	for _, sql := range []string{
		`update usage_counters set count = count * 2 where ` + someCounter,
		`delete from usage_counters where ` + someCounter,
		`insert into usage_counters (tenant_id, agent, period_start, period_end, count) select tenant_id, 'meeting', period_start, period_end, 7 from billing_periods limit 1 returning tenant_id`,
		`insert into usage_counters (tenant_id, agent, period_start, period_end, count) values (gen_random_uuid(), 'inbox', now(), now(), 7) returning tenant_id`,
	} {
		h.change(sql)
		r := h.reconcile(false)
		if r.Done() || len(r.Left) != 1 || !strings.Contains(r.Left[0].Why, "--force") {
			t.Errorf("%s: without force: %+v", sql, r)
		}
		if n := h.number(`select count(*) from audit_findings where kind = 'reconcile_error' and resolved_at is null`); n != 1 {
			t.Errorf("%s: %d open findings, want 1", sql, n)
		}
		if r := h.reconcile(true); !r.Done() || len(r.Repaired) != 1 {
			t.Errorf("%s: with force: %+v", sql, r)
		}
		h.finds(Scope{})
		if n := h.number(`select count(*) from audit_findings where resolved_at is null`); n != 0 {
			t.Errorf("%s: %d findings are open after the repair", sql, n)
		}
	}
}

// Where events are not what the stream says, setting the counter from them
// would make a loss official.
func TestNothingIsRepairedWhereTheStreamDisagrees(t *testing.T) {
	t.Parallel()
	for _, sql := range []string{
		`delete from usage_events where event_id = ` + anEvent + ` returning tenant_id`,
		`update usage_events set quantity = quantity + 1 where event_id = ` + anEvent + ` returning tenant_id`,
		`update usage_events e set period_start = (select min(p.period_start) from billing_periods p where p.tenant_id = e.tenant_id) where event_id = ` + anEvent + ` returning tenant_id`,
	} {
		h := filled(t)
		damaged := h.change(sql)
		before := h.number(`select sum(count) from usage_counters`)
		for _, force := range []bool{false, true} {
			r := h.reconcile(force)
			if r.Done() || len(r.Repaired) != 0 || len(r.Left) == 0 {
				t.Errorf("%s: %+v", sql, r)
			}
		}
		if after := h.number(`select sum(count) from usage_counters`); after != before {
			t.Errorf("%s: counters went from %d to %d", sql, before, after)
		}
		h.exec(`update usage_counters set count = count + 1 where tenant_id <> $1 and agent = 'inbox' and count > 100`, damaged)
		if r := h.reconcile(false); len(r.Repaired) == 0 {
			t.Errorf("%s: the other tenants' counters were not repaired: %+v", sql, r.Left)
		}
	}
}

// close freezes the first tenant's ended period, as the reporter does.
func (h *house) close(tenant uuid.UUID) {
	h.t.Helper()
	h.exec(`update billing_periods p set status = 'closed', closed_at = now(), closed_epoch = s.stream_epoch, closed_seq = s.seq
		from (select max(stream_epoch) as stream_epoch, max(seq) as seq from stream_positions) s
		where tenant_id = $1 and period_end < now()`, tenant)
	h.exec(`insert into period_totals (tenant_id, agent, period_start, count, "limit", unit_price, overage)
		select c.tenant_id, c.agent, c.period_start, c.count, 50, 0.1, greatest(0, c.count - 50)
		from usage_counters c join billing_periods p using (tenant_id, period_start) where c.tenant_id = $1 and p.status = 'closed'`, tenant)
}

func TestAClosedPeriodsTruthIsItsTotal(t *testing.T) {
	t.Parallel()
	h := filled(t)
	tenant := h.tenants[0]
	h.close(tenant)
	h.finds(Scope{})
	const of = ` where tenant_id = $1 and agent = 'inbox' and period_start = (select min(period_start) from billing_periods where tenant_id = $1)`
	h.exec(`update usage_counters set count = count + 1`+of, tenant)
	h.finds(Scope{}, CounterDiffers, TotalDiffers)
	if r := h.reconcile(true); !r.Done() || len(r.Repaired) != 1 {
		t.Errorf("%+v", r)
	}
	h.finds(Scope{})
	h.exec(`update period_totals set count = count + 1, overage = overage + 1`+of, tenant)
	h.exec(`update usage_counters set count = count + 1`+of, tenant)
	if r := h.reconcile(true); r.Done() || len(r.Repaired) != 0 || !strings.Contains(r.Left[0].Why, "frozen total is the truth") {
		t.Errorf("%+v", r)
	}
}

// Operators hear of every difference once, and of its end.
func TestEveryDifferenceIsAFindingWhileItLasts(t *testing.T) {
	t.Parallel()
	h := filled(t)
	open := func(kind string) int64 {
		return h.number(`select count(*) from audit_findings where resolved_at is null and kind = '` + kind + `'`)
	}
	note := func() {
		if err := Note(t.Context(), h.pool, h.audit(Scope{})); err != nil {
			t.Fatal(err)
		}
	}
	h.exec(`insert into audit_findings (kind, subject, detail, found_by) values ('invariant_broken', 'x', 'x', 'watch')`)
	h.exec(`create table kept as select * from dead_letters`)
	h.exec(`delete from dead_letters where ctid = (select ctid from dead_letters limit 1)`)
	note()
	note()
	if n := open(EventMissing); n != 1 {
		t.Errorf("%d findings of what is missing, want 1", n)
	}
	if n := open("invariant_broken"); n != 0 {
		t.Errorf("counters are right, but %d findings say otherwise", n)
	}
	h.exec(`truncate dead_letters`)
	h.exec(`insert into dead_letters select * from kept`)
	note()
	if n := open(EventMissing); n != 0 {
		t.Errorf("%d findings are open although nothing is missing", n)
	}
}
