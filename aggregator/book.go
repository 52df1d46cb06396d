package aggregator

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"odometer"
	"odometer/ingest"
)

const bookBatchSQL = `
insert into batches (
    partition, stream_epoch, from_seq, to_seq, last_stored_at, messages, events, duplicates, dead, units
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`

// commit books what became of each message and commits, in one round trip.
func (w *worker) commit(ctx context.Context, conn *pgx.Conn, b *batch, t *tally) error {
	var steps pgx.Batch
	if len(t.dead) > 0 {
		queueDeadLetters(&steps, t.dead)
	}
	steps.Queue(bookBatchSQL, w.partition, w.at.Epoch, w.at.Seq+1, b.seq, nullTime(b.storedAt),
		len(b.items), len(t.counted), t.duplicates, len(t.dead), t.units())
	steps.Queue("commit")
	answers := conn.SendBatch(ctx, &steps)
	defer answers.Close()
	for range steps.Len() {
		if _, err := answers.Exec(); err != nil {
			return fmt.Errorf("commit partition %d through %d: %w", w.partition, b.seq, err)
		}
	}
	return nil
}

// A message that is read again is the same dead letter.
const bookDeadLettersSQL = `
insert into dead_letters (
    stream_epoch, stream_seq, subject, tenant_id, agent, reason, detail, payload, headers, received_at
)
select *
from unnest(
    $1::integer[], $2::bigint[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::bytea[],
    $9::jsonb[], $10::timestamptz[]
)
on conflict (stream_epoch, stream_seq) do nothing`

func queueDeadLetters(steps *pgx.Batch, dead []deadLetter) {
	var epochs []int32
	var seqs []int64
	var subjects, reasons, details, headers []string
	var tenants []*uuid.UUID
	var agents []*string
	var payloads [][]byte
	var received []time.Time
	for _, d := range dead {
		e := &d.event
		epochs = append(epochs, e.Position.Epoch)
		seqs = append(seqs, e.Position.Seq)
		subjects = append(subjects, storable(published(d.message)))
		tenants = append(tenants, known(e.Tenant))
		agents = append(agents, known(e.Agent))
		reasons = append(reasons, string(d.Reason))
		details = append(details, storable(d.Detail))
		payloads = append(payloads, append([]byte{}, d.message.Data...))
		headers = append(headers, headersJSON(d.message))
		received = append(received, e.RecordedAt)
	}
	steps.Queue(bookDeadLettersSQL, epochs, seqs, subjects, tenants, agents, reasons, details, payloads, headers, received)
}

// published is the subject that the message was sent to.
func published(m *ingest.Message) string {
	kind := "usage"
	if m.Kind == odometer.Adjustment {
		kind = "adjust"
	}
	return kind + "." + m.TenantToken + "." + m.AgentToken
}

// known is nil for what a message does not tell.
func known[T comparable](value T) *T {
	var nothing T
	if value == nothing {
		return nil
	}
	return &value
}

func headersJSON(m *ingest.Message) string {
	clean := make(map[string][]string, len(m.Header))
	for name, values := range m.Header {
		for _, v := range values {
			clean[storable(name)] = append(clean[storable(name)], storable(v))
		}
	}
	text, err := json.Marshal(clean)
	if err != nil {
		panic(err) // strings always encode
	}
	return string(text)
}

// storable writes bytes that Postgres text cannot hold as \xNN: subjects and
// headers may be any bytes, and a dead letter must be able to show them.
func storable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsRune(s, 0) {
		return s
	}
	var out strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if r == 0 || r == utf8.RuneError && size == 1 {
			out.WriteString(`\x` + strconv.FormatUint(uint64(s[0])|0x100, 16)[1:])
		} else {
			out.WriteString(s[:size])
		}
		s = s[size:]
	}
	return out.String()
}
