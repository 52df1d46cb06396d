package audit

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"odometer"
)

const storedEventColumns = `
    e.tenant_id, e.event_id, e.agent, e.kind, e.action_type, e.resource_id, e.quantity, e.idempotency_key,
    e.metadata::text, e.occurred_at, e.recorded_at, e.period_start, e.stream_epoch, e.stream_seq`

// storedEvent is a row of usage_events. Its bytes are valid until the next row is
// read.
type storedEvent struct {
	tenant, id                                   [16]byte
	agent, kind, action, resource, key, metadata []byte // nil for null
	quantity                                     int64
	occurred, recorded, period                   time.Time
	odometer.Position
}

// binaryRows asks for every column in Postgres' binary format: millions of rows
// are compared, and only those that differ need their values as text.
var binaryRows = pgx.QueryResultFormats{pgx.BinaryFormatCode}

// scan reads storedEventColumns.
func (e *storedEvent) scan(values [][]byte) {
	copy(e.tenant[:], values[0])
	copy(e.id[:], values[1])
	e.agent, e.kind, e.action, e.resource = values[2], values[3], values[4], values[5]
	e.quantity = int64(binary.BigEndian.Uint64(values[6]))
	e.key, e.metadata = values[7], values[8]
	e.occurred, e.recorded, e.period = timestamp(values[9]), timestamp(values[10]), timestamp(values[11])
	e.Epoch = int32(binary.BigEndian.Uint32(values[12]))
	e.Seq = int64(binary.BigEndian.Uint64(values[13]))
}

var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// timestamp reads a timestamptz: microseconds since 2000.
func timestamp(value []byte) time.Time {
	micro := int64(binary.BigEndian.Uint64(value))
	return time.UnixMicro(postgresEpoch.UnixMicro() + micro).UTC()
}

// madeOf reports whether the event was made of this very message. Its epoch is
// another one when the stream was cut and the message read again.
func (e *storedEvent) madeOf(m *message) bool {
	return e.Seq == m.seq() && e.id == m.id && e.tenant == m.event.Tenant &&
		(e.recorded.Equal(m.StoredAt) || e.Epoch == m.Position.Epoch)
}

// repeatedBy reports whether another event with the same key is a duplicate and
// no conflict: agent, action, resource and quantity are the same.
func (e *storedEvent) repeatedBy(other *odometer.Event) bool {
	return e.quantity == other.Quantity && string(e.agent) == other.Agent && string(e.action) == other.Action && sameText(e.resource, other.Resource)
}

// differs names the first field that is not as the message says, "" for none.
func (e *storedEvent) differs(m *message) (field, expected, found string) {
	want := &m.event
	switch {
	case e.quantity != want.Quantity:
		return "quantity", fmt.Sprint(want.Quantity), fmt.Sprint(e.quantity)
	case string(e.agent) != want.Agent:
		return "agent", want.Agent, string(e.agent)
	case string(e.kind) != string(want.Kind):
		return "kind", string(want.Kind), string(e.kind)
	case string(e.action) != want.Action:
		return "action_type", want.Action, string(e.action)
	case !sameText(e.resource, want.Resource):
		return "resource_id", quoted(want.Resource), quotedBytes(e.resource)
	case string(e.key) != want.Key:
		return "idempotency_key", want.Key, string(e.key)
	case !e.occurred.Equal(want.OccurredAt):
		return "occurred_at", want.OccurredAt.UTC().Format(time.RFC3339Nano), e.occurred.Format(time.RFC3339Nano)
	case !e.recorded.Equal(want.RecordedAt):
		return "recorded_at", want.RecordedAt.Format(time.RFC3339Nano), e.recorded.Format(time.RFC3339Nano)
	case !sameJSON(e.metadata, want.Metadata):
		return "metadata", string(want.Metadata), quotedBytes(e.metadata)
	}
	return "", "", ""
}

func sameText(stored []byte, want *string) bool {
	if stored == nil || want == nil {
		return stored == nil && want == nil
	}
	return string(stored) == *want
}

func quoted(s *string) string {
	if s == nil {
		return "null"
	}
	return fmt.Sprintf("%q", *s)
}

func quotedBytes(s []byte) string {
	if s == nil {
		return "null"
	}
	return fmt.Sprintf("%q", s)
}

// sameJSON reports whether two documents mean the same: Postgres keeps numbers
// and the order of names in its own way.
func sameJSON(a, b []byte) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return bytes.Equal(a, b) || bytes.Equal(ordered(a), ordered(b)) || reflect.DeepEqual(decoded(a), decoded(b))
}

// ordered is a document without spaces and with its names in order. Most differ
// in nothing else, and this is many times cheaper than reading the values.
func ordered(text []byte) []byte {
	value := jsontext.Value(bytes.Clone(text))
	if err := value.Format(jsontext.ReorderRawObjects(true), jsontext.AllowDuplicateNames(true)); err != nil {
		return text
	}
	return value
}

// decoded is a document's value, in which equal numbers are the same text.
func decoded(text []byte) (value any) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return err.Error()
	}
	return withPlainNumbers(value)
}

func withPlainNumbers(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for name := range value {
			value[name] = withPlainNumbers(value[name])
		}
	case []any:
		for i := range value {
			value[i] = withPlainNumbers(value[i])
		}
	case json.Number:
		if d, err := decimal.NewFromString(value.String()); err == nil {
			return json.Number(d.String())
		}
	}
	return value
}

// counter is the counter that the event is in, with the given agent.
func (e *storedEvent) counter(agent string) counterKey {
	return counterKey{Tenant: uuid.UUID(e.tenant), Agent: agent, Period: e.period}
}
