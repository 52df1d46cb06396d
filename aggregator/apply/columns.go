package apply

import (
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// columns are events as the arrays that Postgres unnests.
type columns struct {
	tenant, id, agent, kind, action, resource, quantity, key column
	metadata, occurred, recorded, period, epoch, seq         column
}

// newColumns has room for about n events.
func newColumns(n int) *columns {
	const id, word, text, number = 4 + 16, 4 + 16, 4 + 64, 4 + 8 // bytes of an element
	room := func(oid uint32, size int) column {
		return column{oid: oid, bytes: make([]byte, arrayHead, arrayHead+n*size)}
	}
	return &columns{
		tenant: room(pgtype.UUIDOID, id), id: room(pgtype.UUIDOID, id),
		agent: room(pgtype.TextOID, word), kind: room(pgtype.TextOID, word), action: room(pgtype.TextOID, word),
		resource: room(pgtype.TextOID, text), quantity: room(pgtype.Int8OID, number), key: room(pgtype.TextOID, text),
		metadata: room(pgtype.TextOID, 2*text), occurred: room(pgtype.TimestamptzOID, number), recorded: room(pgtype.TimestamptzOID, number),
		period: room(pgtype.TimestamptzOID, number), epoch: room(pgtype.Int4OID, 4+4), seq: room(pgtype.Int8OID, number),
	}
}

func (c *columns) add(i *Item) {
	e := &i.Event
	c.tenant.add(e.Tenant[:])
	c.id.add(i.ID[:])
	c.agent.addText(e.Agent)
	c.kind.addText(string(e.Kind))
	c.action.addText(e.Action)
	if e.Resource != nil {
		c.resource.addText(*e.Resource)
	} else {
		c.resource.addNull()
	}
	c.quantity.addNumber(e.Quantity)
	c.key.addText(e.Key)
	if e.Metadata != nil {
		c.metadata.add(e.Metadata)
	} else {
		c.metadata.addNull()
	}
	c.occurred.addTime(e.OccurredAt)
	c.recorded.addTime(e.RecordedAt)
	c.period.addTime(i.Period)
	c.epoch.addNumber4(e.Position.Epoch)
	c.seq.addNumber(e.Position.Seq)
}

// column is a one-dimensional array as Postgres reads it in binary: a head,
// then each element after its length. The library would make an interface of
// each of a batch's 70,000 elements, and of most a piece of garbage; that was a
// quarter of the aggregator's processor time.
type column struct {
	oid    uint32 // of the elements
	bytes  []byte
	length uint32
	nulls  uint32 // 1 when there are any
}

// arrayHead is the length of the head: dimensions, whether there are nulls, the
// elements' type, their number, the first index.
const arrayHead = 5 * 4

func (c *column) begin(size uint32) {
	c.length++
	c.bytes = binary.BigEndian.AppendUint32(c.bytes, size)
}

func (c *column) add(element []byte) {
	c.begin(uint32(len(element)))
	c.bytes = append(c.bytes, element...)
}

func (c *column) addText(element string) {
	c.begin(uint32(len(element)))
	c.bytes = append(c.bytes, element...)
}

func (c *column) addNull() {
	c.begin(0xffff_ffff)
	c.nulls = 1
}

func (c *column) addNumber(n int64) {
	c.begin(8)
	c.bytes = binary.BigEndian.AppendUint64(c.bytes, uint64(n))
}

func (c *column) addNumber4(n int32) {
	c.begin(4)
	c.bytes = binary.BigEndian.AppendUint32(c.bytes, uint32(n))
}

// addTime takes times to the microsecond, which Postgres counts from 2000 on.
func (c *column) addTime(t time.Time) {
	const year2000 = 946_684_800_000_000
	c.addNumber(t.UnixMicro() - year2000)
}

// array is the column with its head.
func (c *column) array() []byte {
	head := c.bytes[:0:arrayHead]
	if c.length == 0 {
		head = binary.BigEndian.AppendUint32(head, 0)
		head = binary.BigEndian.AppendUint32(head, 0)
		return binary.BigEndian.AppendUint32(head, c.oid)
	}
	for _, part := range []uint32{1, c.nulls, c.oid, c.length, 1} {
		head = binary.BigEndian.AppendUint32(head, part)
	}
	return c.bytes
}

// registerColumns lets a connection's parameters be columns.
func registerColumns(conn *pgx.Conn) {
	types := conn.TypeMap()
	for _, oid := range []uint32{pgtype.UUIDArrayOID, pgtype.TextArrayOID, pgtype.Int8ArrayOID, pgtype.Int4ArrayOID, pgtype.TimestamptzArrayOID} {
		known, _ := types.TypeForOID(oid)
		if _, ok := known.Codec.(columnCodec); !ok {
			types.RegisterType(&pgtype.Type{Name: known.Name, OID: oid, Codec: columnCodec{known.Codec}})
		}
	}
}

// columnCodec is an array's codec that sends a column as it is.
type columnCodec struct{ pgtype.Codec }

// PlanEncode is of the codec's interface.
func (c columnCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(*column); ok && format == pgtype.BinaryFormatCode {
		return columnPlan{}
	}
	return c.Codec.PlanEncode(m, oid, format, value)
}

type columnPlan struct{}

// Encode appends the array.
func (columnPlan) Encode(value any, buf []byte) ([]byte, error) {
	return append(buf, value.(*column).array()...), nil
}
