package aggregator

import "time"

// columns are events as the arrays that Postgres unnests.
type columns struct {
	tenant, id [][16]byte
	agent      []string
	kind       []string
	action     []string
	resource   []*string
	quantity   []int64
	key        []string
	metadata   [][]byte
	occurred   []time.Time
	recorded   []time.Time
	period     []time.Time
	epoch      []int32
	seq        []int64
}

func newColumns(n int) *columns {
	return &columns{
		tenant: make([][16]byte, 0, n), id: make([][16]byte, 0, n),
		agent: make([]string, 0, n), kind: make([]string, 0, n), action: make([]string, 0, n),
		resource: make([]*string, 0, n), quantity: make([]int64, 0, n), key: make([]string, 0, n),
		metadata: make([][]byte, 0, n), occurred: make([]time.Time, 0, n), recorded: make([]time.Time, 0, n),
		period: make([]time.Time, 0, n), epoch: make([]int32, 0, n), seq: make([]int64, 0, n),
	}
}

func (c *columns) add(i *item, period time.Time) {
	e := &i.event
	c.tenant = append(c.tenant, e.Tenant)
	c.id = append(c.id, i.id)
	c.agent = append(c.agent, e.Agent)
	c.kind = append(c.kind, string(e.Kind))
	c.action = append(c.action, e.Action)
	c.resource = append(c.resource, e.Resource)
	c.quantity = append(c.quantity, e.Quantity)
	c.key = append(c.key, e.Key)
	c.metadata = append(c.metadata, e.Metadata)
	c.occurred = append(c.occurred, e.OccurredAt)
	c.recorded = append(c.recorded, e.RecordedAt)
	c.period = append(c.period, period)
	c.epoch = append(c.epoch, e.Position.Epoch)
	c.seq = append(c.seq, e.Position.Seq)
}
