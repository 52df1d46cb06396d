package reporter

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer"
)

// Line is an agent's overage in a period, as a bookkeeper reads it, in units
// and hundredths of the currency.
type Line struct {
	Tenant      uuid.UUID `json:"tenant_id"`
	Agent       string    `json:"agent"`
	PeriodStart time.Time `json:"period_start"`
	PeriodEnd   time.Time `json:"period_end"`
	Used        int64     `json:"used"`
	Limit       *int64    `json:"limit"` // null: no limit
	Overage     int64     `json:"overage"`
	Told        int64     `json:"told"`
	ToTell      int64     `json:"to_tell"`
	AmountCents int64     `json:"amount_cents"` // of what is to be told
	Customer    string    `json:"stripe_customer"`
}

// Statement lists what a pass would tell, and what was told, of every period
// that is not settled: the lines with any overage. It asks nobody but Postgres,
// calls each for a line and changes nothing.
func (r *Reporter) Statement(ctx context.Context, tenant *uuid.UUID, each func(Line)) error {
	after := uuid.Nil
	for {
		rows, _ := r.Pool.Query(ctx, tenantsSQL, r.now(), after, tenant, pageSize)
		tenants, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return fmt.Errorf("list tenants with unsettled periods: %w", err)
		}
		if len(tenants) == 0 {
			return nil
		}
		books, err := r.load(ctx, tenants, r.now())
		if err != nil {
			return err
		}
		for _, b := range books {
			b.statement(each)
		}
		after = tenants[len(tenants)-1]
	}
}

func (b *book) statement(each func(Line)) {
	for _, in := range b.periods {
		for i := range in.agents {
			u := &in.agents[i]
			told := toldSoFar(b.chain(in.start, u.agent))
			if u.overage == 0 && told == 0 {
				continue
			}
			each(Line{
				Tenant: b.tenant, Agent: u.agent, PeriodStart: in.start, PeriodEnd: in.end,
				Used: u.count, Limit: u.limit, Overage: u.overage, Told: told, ToTell: u.overage - told,
				AmountCents: odometer.CostCents(u.overage-told, u.price), Customer: b.customer,
			})
		}
	}
}
