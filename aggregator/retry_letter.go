package aggregator

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"odometer"
	"odometer/ingest"
)

// LetterID is how people name a dead letter: `<epoch>-<seq>`.
func LetterID(at odometer.Position) string { return fmt.Sprintf("%d-%d", at.Epoch, at.Seq) }

// ParseLetterID reads what LetterID writes.
func ParseLetterID(id string) (at odometer.Position, ok bool) {
	first, second, _ := strings.Cut(id, "-")
	epoch, err := strconv.ParseInt(first, 10, 32)
	if err != nil || epoch < 1 {
		return at, false
	}
	at.Epoch = int32(epoch)
	at.Seq, err = strconv.ParseInt(second, 10, 64)
	return at, err == nil && at.Seq > 0 && LetterID(at) == id
}

// letter is a dead letter as it is kept: the message that the stream stored.
type letter struct {
	odometer.Position
	subject     string
	payload     []byte
	headers     []byte
	received    time.Time
	retriedAt   odometer.Position // zero while it was not
	closedUntil *time.Time
}

const letterColumns = `
    d.stream_epoch, d.stream_seq, d.subject, d.payload, d.headers, d.received_at,
    coalesce(d.retry_epoch, 0), coalesce(d.retry_seq, 0), d.retry_closed_until`

func collectLetters(rows pgx.Rows) ([]letter, error) {
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l letter, err error) {
		err = row.Scan(&l.Epoch, &l.Seq, &l.subject, &l.payload, &l.headers, &l.received,
			&l.retriedAt.Epoch, &l.retriedAt.Seq, &l.closedUntil)
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	return found, nil
}

// item is the message again, as the reader made it, and its partition. A
// subject without a tenant has none and never counts; any will do.
func (l *letter) item(partitions int) (it item, partition int) {
	kind, _, tenant, agent, _ := ingest.ParseStored(l.subject)
	if id, ok := odometer.ParseTenant(tenant); ok {
		partition = odometer.PartitionOf(id, partitions)
	}
	var header nats.Header
	_ = json.Unmarshal(l.headers, &header) // what cannot be read is no content type
	stored := l.received.UTC()
	it = item{mark: mark{seq: l.Seq, storedAt: stored}, message: &ingest.Message{
		Kind: kind, TenantToken: tenant, AgentToken: agent,
		Header: header, Data: l.payload, StoredAt: stored, Position: l.Position,
	}}
	it.retried = &retrial{now: l.retriedAt == odometer.Position{}, closedUntil: l.closedUntil}
	(&worker{}).decode(&it)
	return it, partition
}

func collectOutcomes(rows pgx.Rows) ([]Outcome, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (o Outcome, err error) {
		err = row.Scan(&o.ID.Epoch, &o.ID.Seq, &o.State, &o.Reason, &o.Detail)
		return o, err
	})
}
