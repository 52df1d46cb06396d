package audit

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"odometer"
)

const recordColumns = `
    e.tenant_id, e.event_id, e.agent, e.kind, e.action_type, e.resource_id, e.quantity, e.idempotency_key,
    e.metadata::text, e.occurred_at, e.recorded_at, e.period_start, e.stream_epoch, e.stream_seq`

// record is a stored event as it comes from Postgres. Its bytes are good until
// the next row is read.
type record struct {
	tenant, id                                 [16]byte
	agent, kind, action, resource, key, detail []byte // nil for null
	quantity                                   int64
	occurred, recorded, period                 time.Time
	odometer.Position
}

// binaryRows asks for every column as Postgres keeps it: millions of rows are
// compared, and few of them are needed for more.
var binaryRows = pgx.QueryResultFormats{pgx.BinaryFormatCode}

// scan reads the record columns, of which the first is values[0].
func (r *record) scan(values [][]byte) {
	copy(r.tenant[:], values[0])
	copy(r.id[:], values[1])
	r.agent, r.kind, r.action, r.resource = values[2], values[3], values[4], values[5]
	r.quantity = int64(binary.BigEndian.Uint64(values[6]))
	r.key, r.detail = values[7], values[8]
	r.occurred, r.recorded, r.period = when(values[9]), when(values[10]), when(values[11])
	r.Epoch = int32(binary.BigEndian.Uint32(values[12]))
	r.Seq = int64(binary.BigEndian.Uint64(values[13]))
}

var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// when reads a timestamptz: microseconds since 2000.
func when(value []byte) time.Time {
	micro := int64(binary.BigEndian.Uint64(value))
	return time.UnixMicro(postgresEpoch.UnixMicro() + micro).UTC()
}

// of reports whether the record was made of this very message. Its epoch is
// another when the stream was cut and the message read again.
func (r *record) of(m *message) bool {
	return r.Seq == m.seq() && r.id == m.id && r.tenant == m.event.Tenant &&
		(r.recorded.Equal(m.StoredAt) || r.Epoch == m.Position.Epoch)
}

// says reports whether the record claims the key for what the message says:
// agent, action, resource and quantity.
func (r *record) says(e *odometer.Event) bool {
	return r.quantity == e.Quantity && string(r.agent) == e.Agent && string(r.action) == e.Action && sameText(r.resource, e.Resource)
}

// differs tells in what the record is not what its message says, "" for none.
func (r *record) differs(m *message) (field, expected, found string) {
	e := &m.event
	switch {
	case r.quantity != e.Quantity:
		return "quantity", fmt.Sprint(e.Quantity), fmt.Sprint(r.quantity)
	case string(r.agent) != e.Agent:
		return "agent", e.Agent, string(r.agent)
	case string(r.kind) != string(e.Kind):
		return "kind", string(e.Kind), string(r.kind)
	case string(r.action) != e.Action:
		return "action_type", e.Action, string(r.action)
	case !sameText(r.resource, e.Resource):
		return "resource_id", quoted(e.Resource), shown(r.resource)
	case string(r.key) != e.Key:
		return "idempotency_key", e.Key, string(r.key)
	case !r.occurred.Equal(e.OccurredAt):
		return "occurred_at", e.OccurredAt.UTC().Format(time.RFC3339Nano), r.occurred.Format(time.RFC3339Nano)
	case !r.recorded.Equal(e.RecordedAt):
		return "recorded_at", e.RecordedAt.Format(time.RFC3339Nano), r.recorded.Format(time.RFC3339Nano)
	case !sameJSON(r.detail, e.Metadata):
		return "metadata", string(e.Metadata), shown(r.detail)
	}
	return "", "", ""
}

func sameText(stored []byte, said *string) bool {
	if stored == nil || said == nil {
		return stored == nil && said == nil
	}
	return string(stored) == *said
}

func quoted(s *string) string {
	if s == nil {
		return "null"
	}
	return fmt.Sprintf("%q", *s)
}

func shown(s []byte) string {
	if s == nil {
		return "null"
	}
	return fmt.Sprintf("%q", s)
}

// sameJSON reports whether two documents say the same: Postgres keeps numbers
// and the order of names in its own way.
func sameJSON(a, b []byte) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return bytes.Equal(a, b) || bytes.Equal(ordered(a), ordered(b)) || sameValue(decoded(a), decoded(b))
}

// ordered is a document without spaces and with its names in order: what most
// differ by, and many times cheaper to bring about than to read the values.
func ordered(text []byte) []byte {
	value := jsontext.Value(bytes.Clone(text))
	if err := value.Format(jsontext.ReorderRawObjects(true), jsontext.AllowDuplicateNames(true)); err != nil {
		return text
	}
	return value
}

func decoded(text []byte) (value any) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return err.Error()
	}
	return value
}

func sameValue(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for name, value := range a {
			if other, ok := b[name]; !ok || !sameValue(value, other) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !sameValue(a[i], b[i]) {
				return false
			}
		}
		return true
	case json.Number:
		b, ok := b.(json.Number)
		x, err1 := decimal.NewFromString(a.String())
		y, err2 := decimal.NewFromString(b.String())
		return ok && err1 == nil && err2 == nil && x.Equal(y)
	default:
		return a == b
	}
}

func (r *record) tenantID() *uuid.UUID { id := uuid.UUID(r.tenant); return &id }
