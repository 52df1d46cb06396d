package odometer

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/fnv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Limits of an event, as the contract publishes them.
const (
	MaxPayloadBytes  = 64 << 10      // one event's JSON
	MaxKeyRunes      = 255           // idempotency_key
	MaxResourceRunes = 255           // resource_id
	MaxQuantity      = 1_000_000_000 // units of one event; a correction may also be this far below zero
	MaxMetadataBytes = 8 << 10       // metadata, as JSON text
	MaxMetadataDepth = 32            // nested objects and arrays in metadata, itself included

	MaxAhead = 5 * time.Minute     // occurred_at after the time the stream stored the message
	MaxAge   = 90 * 24 * time.Hour // occurred_at before that time; also how long a key is remembered
)

// AdjustmentAction is the action_type of every correction.
const AdjustmentAction = "adjustment"

// Kind separates what agents report from what operators correct. Each kind has
// its own namespace of idempotency keys.
type Kind string

const (
	Usage      Kind = "usage"      // published by agents, quantity 1 or more
	Adjustment Kind = "adjustment" // published by operators, quantity of either sign
)

// Event is one billable action, or the correction of some, as it was stored by
// the stream.
type Event struct {
	Kind       Kind
	Tenant     uuid.UUID
	Agent      string
	Key        string // idempotency_key, unique per tenant and kind
	Action     string
	Resource   *string // resource_id, nil when absent
	Quantity   int64   // units
	Metadata   []byte  // a JSON object, nil when absent
	OccurredAt time.Time
	RecordedAt time.Time // when the stream stored it
	Position   Position  // where the stream stored it
}

// ID identifies the event for ever: the first 128 bits of a SHA-256 over kind,
// tenant and key, each with its length in front so that no two triples read
// the same. Neither time nor position is part of it: a retry that carries another
// time is still the same event.
func (e *Event) ID() uuid.UUID {
	buf := make([]byte, 0, 3*4+len(Adjustment)+len(e.Tenant)+4*MaxKeyRunes)
	buf = appendField(buf, string(e.Kind))
	buf = appendField(buf, string(e.Tenant[:]))
	buf = appendField(buf, e.Key)
	sum := sha256.Sum256(buf)
	return uuid.UUID(sum[:16])
}

func appendField(buf []byte, field string) []byte {
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(field)))
	return append(buf, field...)
}

// Position is where a message stands in the history of the stream. A stream that
// lost its tail uses sequences again; the epoch tells which use is meant.
type Position struct {
	Epoch int32
	Seq   int64
}

// After reports whether p lies later in the stream's history than o.
func (p Position) After(o Position) bool {
	return p.Epoch > o.Epoch || p.Epoch == o.Epoch && p.Seq > o.Seq
}

// ValidAgent reports whether id has the form of an agent's id, which is also
// the form of a subject's last token: `[a-z][a-z0-9_-]{0,31}`.
func ValidAgent(id string) bool {
	if len(id) < 1 || len(id) > 32 || id[0] < 'a' || id[0] > 'z' {
		return false
	}
	for _, c := range []byte(id[1:]) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// ParseTenant reads a tenant's id in its only accepted form, the canonical
// lower-case UUID: any other spelling would be another subject, and so perhaps
// another partition, for the same tenant.
func ParseTenant(s string) (uuid.UUID, bool) {
	id, err := uuid.Parse(s)
	return id, err == nil && len(s) == len("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") && !strings.ContainsAny(s, "ABCDEF")
}

// PartitionHash is the hash by which the NATS server's subject transform
// `{{partition(N,2)}}` assigns tenants to partitions: FNV-1a, 32 bits, over the
// tenant's token. (nats-server, server/subject_transform.go.)
func PartitionHash(tenant uuid.UUID) uint32 {
	h := fnv.New32a()
	h.Write([]byte(tenant.String()))
	return h.Sum32()
}

// PartitionOf is the partition, of n, that holds a tenant's messages.
func PartitionOf(tenant uuid.UUID, n int) int {
	return int(PartitionHash(tenant) % uint32(n))
}
