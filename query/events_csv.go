package query

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// csvHeader names the columns of an export: the members of an Event.
const csvHeader = "event_id,agent,kind,action_type,resource_id,quantity,idempotency_key,metadata,occurred_at,recorded_at,period_start,late\r\n"

// exportTimeout is how long an export may take to be fetched, and so how long
// it keeps a connection and a snapshot of the database.
const exportTimeout = 10 * time.Minute

// exportStep is how many events of an export are in memory.
const exportStep = 500

// Export is a list of events that is being written as CSV.
type Export struct {
	AsOf         Instant
	CompleteFrom *time.Time // as in Events

	ctx    context.Context
	cancel context.CancelFunc
	tx     pgx.Tx
	step   []Event // the next to be written
}

// OpenExport begins an export of all requested events, or of the first Limit. It
// must be closed. The error is a *Refusal
// where there is no answer, anything else is the database's.
func OpenExport(ctx context.Context, pool *pgxpool.Pool, r EventsRequest) (*Export, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	tx, err := begin(ctx, pool)
	if err != nil {
		cancel()
		return nil, err
	}
	e := &Export{ctx: ctx, cancel: cancel, tx: tx}
	if err := e.begin(r); err != nil {
		e.Close()
		return nil, asTooMuch(err)
	}
	return e, nil
}

// ExportHeaders returns an export with AsOf and CompleteFrom, without events.
func ExportHeaders(ctx context.Context, pool *pgxpool.Pool, r EventsRequest) (*Export, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	e := &Export{}
	err := inSnapshot(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		_, err := e.prepare(ctx, tx, r)
		return err
	})
	return e, err
}

// Close ends the export. Nothing was written to the database.
func (e *Export) Close() {
	_ = e.tx.Rollback(context.WithoutCancel(e.ctx))
	e.cancel()
}

// prepare reads AsOf and CompleteFrom, and returns the list to export.
func (e *Export) prepare(ctx context.Context, tx pgx.Tx, r EventsRequest) (*list, error) {
	rows, err := load(ctx, tx, r.Reader)
	if err != nil {
		return nil, err
	}
	e.AsOf = Instant{*rows[0].CompleteUntil}
	if e.CompleteFrom, err = completeFrom(ctx, tx, r.Tenant); err != nil {
		return nil, err
	}
	return r.list(rows[0].Now)
}

// begin opens a cursor over the sorted events, within the statement timeout;
// fetching them takes as long as the client does.
func (e *Export) begin(r EventsRequest) error {
	l, err := e.prepare(e.ctx, e.tx, r)
	if err != nil {
		return err
	}
	var limit *int
	if r.Limit > 0 {
		limit = &r.Limit
	}
	if _, err := e.tx.Exec(e.ctx, `declare export no scroll cursor for`+eventsSQL, l.args(l.from, limit)...); err != nil {
		return fmt.Errorf("export events of tenant %s: %w", l.tenant, err)
	}
	return e.fetch()
}

var fetchSQL = fmt.Sprintf(`fetch forward %d from export`, exportStep)

// fetch reads the next step.
func (e *Export) fetch() error {
	rows, _ := e.tx.Query(e.ctx, fetchSQL)
	step, err := collectEvents(rows)
	e.step = step
	return wrap(err, "fetch exported events")
}

// Write writes the export to w, step by step. An error leaves it incomplete,
// which the client must be able to see.
func (e *Export) Write(w io.Writer) error {
	text := []byte(csvHeader)
	for {
		for i := range e.step {
			text = e.step[i].appendCSV(text)
		}
		if _, err := w.Write(text); err != nil {
			return fmt.Errorf("write exported events: %w", err)
		}
		if len(e.step) < exportStep {
			return nil
		}
		if err := e.fetch(); err != nil {
			return err
		}
		text = text[:0]
	}
}

// appendCSV adds the event as a record of RFC 4180. A missing value is
// an empty cell.
func (e *Event) appendCSV(text []byte) []byte {
	resource := ""
	if e.ResourceID != nil {
		resource = *e.ResourceID
	}
	for _, cell := range []string{
		e.EventID.String(), escapeFormula(e.Agent), escapeFormula(string(e.Kind)), escapeFormula(e.ActionType), escapeFormula(resource),
		strconv.FormatInt(e.Quantity, 10), escapeFormula(e.IdempotencyKey), string(e.Metadata),
		e.OccurredAt.Format(time.RFC3339Nano), e.RecordedAt.Format(time.RFC3339Nano), e.PeriodStart.Format(time.RFC3339Nano),
	} {
		text = append(appendCell(text, cell), ',')
	}
	return append(strconv.AppendBool(text, e.Late), "\r\n"...)
}

// escapeFormula puts a ' before what a spreadsheet would take for a formula: an
// agent could have been tricked into writing one.
func escapeFormula(cell string) string {
	if cell != "" && strings.IndexByte("=+-@\t\r", cell[0]) >= 0 {
		return "'" + cell
	}
	return cell
}

// appendCell adds a cell, quoted where that is needed. encoding/csv is not
// used: with the line ends of RFC 4180 it also changes those within a cell.
func appendCell(text []byte, cell string) []byte {
	if !strings.ContainsAny(cell, "\",\r\n") {
		return append(text, cell...)
	}
	text = append(text, '"')
	text = append(text, strings.ReplaceAll(cell, `"`, `""`)...)
	return append(text, '"')
}
