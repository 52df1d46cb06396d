package apply

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
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/ingest"
)

// A message that is read again is the same dead letter.
const insertDeadLettersSQL = `
insert into dead_letters (
    stream_epoch, stream_seq, subject, tenant_id, agent, reason, detail, payload, headers, received_at
)
select *
from unnest(
    $1::integer[], $2::bigint[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::bytea[],
    $9::jsonb[], $10::timestamptz[]
)
on conflict (stream_epoch, stream_seq) do nothing`

// QueueDeadLetters adds the statement that stores dead letters, if there are any.
func QueueDeadLetters(steps *pgx.Batch, dead []DeadLetter) {
	if len(dead) == 0 {
		return
	}
	var epochs []int32
	var seqs []int64
	var subjects, reasons, details []string
	var headers []map[string][]string
	var tenants []*uuid.UUID
	var agents []*string
	var payloads [][]byte
	var received []time.Time
	for _, d := range dead {
		e, message := &d.Item.Event, d.Item.Message
		epochs = append(epochs, e.Position.Epoch)
		seqs = append(seqs, e.Position.Seq)
		subjects = append(subjects, Storable(published(message)))
		tenants = append(tenants, nilIfZero(e.Tenant))
		agents = append(agents, nilIfZero(e.Agent))
		reasons = append(reasons, string(d.Rejection.Reason))
		details = append(details, Storable(d.Rejection.Detail))
		payloads = append(payloads, append([]byte{}, message.Data...))
		headers = append(headers, storableHeaders(message))
		received = append(received, e.RecordedAt)
	}
	steps.Queue(insertDeadLettersSQL, epochs, seqs, subjects, tenants, agents, reasons, details, payloads, headers, received)
}

// published is the subject that the message was sent to.
func published(m *ingest.Message) string {
	kind := "usage"
	if m.Kind == odometer.Adjustment {
		kind = "adjust"
	}
	return kind + "." + m.TenantToken + "." + m.AgentToken
}

// nilIfZero is nil for the zero value, which stands for what a message does not say.
func nilIfZero[T comparable](value T) *T {
	var zero T
	if value == zero {
		return nil
	}
	return &value
}

func storableHeaders(m *ingest.Message) map[string][]string {
	clean := make(map[string][]string, len(m.Header))
	for name, values := range m.Header {
		for _, v := range values {
			clean[Storable(name)] = append(clean[Storable(name)], Storable(v))
		}
	}
	return clean
}

// Storable writes bytes that Postgres text cannot hold as \xNN: subjects and
// headers may be any bytes, and a dead letter must be able to show them.
func Storable(s string) string {
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

const knownDeadLettersSQL = `
select stream_epoch, stream_seq, reason, detail
from dead_letters
where (stream_epoch, stream_seq) >= ($1, $2)
  and (stream_epoch, stream_seq) <= ($3, $4)`

// KnownDeadLetters are the items, in stream order, that are dead letters
// already, in whatever state, and why.
func (a *Applier) KnownDeadLetters(ctx context.Context, items []Item) (map[odometer.Position]*odometer.Rejection, error) {
	first, last := items[0].Event.Position, items[len(items)-1].Event.Position
	known := map[odometer.Position]*odometer.Rejection{}
	rows, _ := a.Pool.Query(ctx, knownDeadLettersSQL, first.Epoch, first.Seq, last.Epoch, last.Seq)
	var at odometer.Position
	var r odometer.Rejection
	_, err := pgx.ForEachRow(rows, []any{&at.Epoch, &at.Seq, &r.Reason, &r.Detail}, func() error {
		rejection := r
		known[at] = &rejection
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up dead letters of partition %d: %w", a.Partition, err)
	}
	return known, nil
}

// DeadLetterColumns are what CollectDeadLetters reads of dead_letters d.
const DeadLetterColumns = `
    d.stream_epoch, d.stream_seq, d.subject, d.payload, d.headers, d.received_at,
    d.retry_epoch is null, d.retry_closed_until`

// CollectDeadLetters makes items of stored dead letters: the messages as the
// stream stored them, decoded again.
func CollectDeadLetters(rows pgx.Rows) ([]Item, error) {
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Item, error) {
		var m ingest.Message
		var subject string
		var headers []byte
		var retry RetryInfo
		err := row.Scan(&m.Position.Epoch, &m.Position.Seq, &subject, &m.Data, &headers, &m.StoredAt, &retry.Now, &retry.ClosedUntil)
		if err != nil {
			return Item{}, err
		}
		m.Kind, _, m.TenantToken, m.AgentToken, _ = ingest.ParseStored(subject)
		m.StoredAt = m.StoredAt.UTC()
		var header nats.Header
		if json.Unmarshal(headers, &header) == nil { // headers that cannot be read hold no content type
			m.Header = header
		}
		i := Decode(&m)
		i.Retry = &retry
		return i, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	return found, nil
}
