package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
)

// What one request to the server asks for, and for how long it stands.
const (
	requestMessages = 5000
	requestBytes    = 8 << 20
	requestExpiry   = 30 * time.Second
	heartbeat       = time.Second      // a server with nothing to send says so this often
	silenceLimit    = 30 * time.Second // Next gives up when nothing, not even a heartbeat, came for so long
	consumerIdle    = 2 * time.Minute  // the server removes a consumer without a request for so long
)

// ErrGap means that messages of the stream were lost on their way to the
// reader. A new reader that begins after the last message gets them.
var ErrGap = errors.New("messages of the stream did not all arrive")

// ReadOptions says which messages a StreamReader reads. The zero value is the
// whole stream.
type ReadOptions struct {
	From     int64     // sequence of the first message
	Since    time.Time // when not zero, instead of From: begin with the first message stored at this time or later
	To       int64     // sequence of the last message that Next returns; 0: no such limit
	Subjects []string  // stored subjects, wildcards allowed; nil: all
}

// StreamReader reads the stream in order, through an ephemeral pull consumer
// without acknowledgements: where a reader stands is for its caller to keep.
//
// It sends the requests for messages itself instead of using nats.go's
// iterators. Those take any message with an empty payload and a header "Status"
// for an answer of the server, so that an agent could send one and stop the
// reading for everyone. Here the server's answers come on the reader's inbox,
// and a message of the stream on its stored subject, whatever its headers say.
//
// A reader that stops somewhere (audit, replay) calls Next. A reader that goes
// on for ever (aggregator) receives from Arrived, passes each to Accept, and
// calls KeepAlive several times a second. It is for one goroutine.
type StreamReader struct {
	nc       *nats.Conn
	consumer jetstream.Consumer
	to       int64
	pending  uint64 // messages that matched when the reader was opened

	sub     *nats.Subscription
	inbox   string // each request has its own reply subject below it
	arrived chan *nats.Msg
	closed  chan struct{}

	requests int    // sent so far
	reply    string // reply subject of the latest
	open     int    // messages that it may still bring
	heard    time.Time
	idle     bool   // the latest arrival was a heartbeat
	received uint64 // messages accepted, which is the consumer sequence of the latest
	last     int64  // its stream sequence
}

// OpenReader creates the consumer and requests the first messages. (One reader
// for all partitions is several times faster than one with a filter for each.)
// Close it.
func OpenReader(ctx context.Context, nc *nats.Conn, stream jetstream.Stream, o ReadOptions) (*StreamReader, error) {
	config := jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       uint64(max(o.From, 1)),
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: consumerIdle,
		MemoryStorage:     true,
		Replicas:          1,
		FilterSubjects:    o.Subjects,
	}
	if !o.Since.IsZero() {
		config.DeliverPolicy, config.OptStartSeq, config.OptStartTime = jetstream.DeliverByStartTimePolicy, 0, &o.Since
	}
	consumer, err := stream.CreateConsumer(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", StreamName, err)
	}
	r := &StreamReader{
		nc: nc, consumer: consumer, to: o.To, pending: consumer.CachedInfo().NumPending,
		inbox: nc.NewInbox(), arrived: make(chan *nats.Msg, 256), closed: make(chan struct{}),
	}
	err = r.subscribe()
	if err == nil {
		err = r.request()
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("read stream %s: %w", StreamName, err)
	}
	return r, nil
}

func (r *StreamReader) subscribe() (err error) {
	r.sub, err = r.nc.Subscribe(r.inbox+".*", func(msg *nats.Msg) {
		select {
		case r.arrived <- msg:
		case <-r.closed:
		}
	})
	if err != nil {
		return err
	}
	// The requests bound what is under way; nats.go must not drop any of it.
	return r.sub.SetPendingLimits(-1, -1)
}

// Close ends the subscription and asks the server to remove the consumer,
// without waiting: the server removes it by itself too.
func (r *StreamReader) Close() {
	close(r.closed)
	if r.sub != nil {
		_ = r.sub.Unsubscribe()
	}
	_ = r.nc.PublishRequest("$JS.API.CONSUMER.DELETE."+StreamName+"."+r.consumer.CachedInfo().Name, r.inbox, nil)
}

// Next waits for the next message. It returns nil at the end of the range: after
// the message at To, or after the last message that the stream held when the
// reader was opened.
func (r *StreamReader) Next(ctx context.Context) (*Message, error) {
	for r.received < r.pending && (r.to == 0 || r.last < r.to) {
		msg, err := r.wait(ctx)
		if err != nil {
			return nil, err
		}
		if m, err := r.Accept(msg); m != nil || err != nil {
			return r.within(m), err
		}
		if done, err := r.drained(ctx); done || err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// wait returns the next arrival.
func (r *StreamReader) wait(ctx context.Context) (*nats.Msg, error) {
	select {
	case msg := <-r.arrived: // most are here already, and need no ticker
		return msg, nil
	default:
	}
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < silenceLimit; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case msg := <-r.arrived:
			return msg, nil
		case <-tick.C:
			if err := r.KeepAlive(); err != nil {
				return nil, err
			}
		}
	}
	return nil, fmt.Errorf("read stream %s: %w", StreamName, nats.ErrTimeout)
}

// within is m, or nil when it lies after the range.
func (r *StreamReader) within(m *Message) *Message {
	if m != nil && r.to > 0 && m.Position.Seq > r.to {
		return nil
	}
	return m
}

// drained reports, at a heartbeat, whether the consumer has no more messages:
// some that were pending when it was created may have left the stream by age.
func (r *StreamReader) drained(ctx context.Context) (bool, error) {
	if !r.idle {
		return false, nil
	}
	info, err := r.consumer.Info(ctx)
	if err != nil {
		return false, fmt.Errorf("read stream %s: %w", StreamName, err)
	}
	return info.NumPending == 0 && info.Delivered.Consumer == r.received && len(r.arrived) == 0, nil
}

// Arrived is where messages of the stream and answers of the server come in,
// in order. Each goes to Accept.
func (r *StreamReader) Arrived() <-chan *nats.Msg { return r.arrived }

// Accept returns the message of the stream that has arrived, or nil when it was
// an answer of the server. The message's position has no epoch yet.
// ErrGap means that messages before it were lost.
func (r *StreamReader) Accept(msg *nats.Msg) (*Message, error) {
	r.heard = time.Now()
	r.idle = false
	if strings.HasPrefix(msg.Subject, r.inbox+".") {
		return nil, r.answer(msg)
	}
	meta, err := msg.Metadata()
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", StreamName, err)
	}
	if meta.Sequence.Consumer != r.received+1 {
		return nil, fmt.Errorf("%w: some are missing after sequence %d", ErrGap, r.last)
	}
	r.received++
	r.last = int64(meta.Sequence.Stream)
	if r.open--; r.open == 0 {
		err = r.request()
	}
	m := &Message{
		Subject: msg.Subject, Header: msg.Header, Data: msg.Data,
		StoredAt: meta.Timestamp.UTC().Truncate(time.Microsecond),
		Position: odometer.Position{Seq: r.last},
	}
	var ok bool
	if m.Kind, m.Partition, m.TenantToken, m.AgentToken, ok = ParseStored(msg.Subject); !ok {
		m.Partition = -1
	}
	return m, err
}

// answer acts on what the server says about a request. Its last answer to a
// request that another has followed changes nothing, else each would be renewed
// beside its successor.
func (r *StreamReader) answer(msg *nats.Msg) error {
	if msg.Subject != r.reply {
		return nil
	}
	status, description := msg.Header.Get("Status"), msg.Header.Get("Description")
	switch {
	case status == "100":
		r.idle = true
		return nil
	case status == "404", status == "408",
		status == "409" && (strings.Contains(description, "MaxBytes") || strings.Contains(description, "Batch Completed")):
		return r.request()
	default:
		return fmt.Errorf("read stream %s: the server answers %s %s", StreamName, status, description)
	}
}

// KeepAlive sends another request when nothing has arrived for three
// heartbeats: a request that ends exactly at its limit of bytes ends without an
// answer.
func (r *StreamReader) KeepAlive() error {
	if len(r.arrived) > 0 || time.Since(r.heard) < 3*heartbeat {
		return nil
	}
	return r.request()
}

func (r *StreamReader) request() error {
	body, err := json.Marshal(map[string]int64{
		"batch": requestMessages, "max_bytes": requestBytes,
		"expires": int64(requestExpiry), "idle_heartbeat": int64(heartbeat),
	})
	if err != nil {
		return err
	}
	r.requests++
	r.reply = fmt.Sprintf("%s.%d", r.inbox, r.requests)
	r.open, r.heard = requestMessages, time.Now()
	next := "$JS.API.CONSUMER.MSG.NEXT." + StreamName + "." + r.consumer.CachedInfo().Name
	if err := r.nc.PublishRequest(next, r.reply, body); err != nil {
		return fmt.Errorf("request messages: %w", err)
	}
	return nil
}

// StoredTime returns when the stream stored the message at a sequence, nil when
// it has none there. It waits 10 s at most.
//
// It asks the server's API itself. The client library also reads the message's
// headers: by those an agent could forge the time (in a direct get), or, with
// headers that no library can read, make every call fail.
func StoredTime(ctx context.Context, nc *nats.Conn, seq int64) (*time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answer, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+StreamName, fmt.Appendf(nil, `{"seq":%d}`, seq))
	if err != nil {
		return nil, fmt.Errorf("read the stored time of message %d: %w", seq, err)
	}
	var found struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Time time.Time `json:"time"`
		} `json:"message"`
	}
	err = json.Unmarshal(answer.Data, &found)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the stored time of message %d: %w", seq, err)
	case found.Error != nil && found.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case found.Error != nil:
		return nil, fmt.Errorf("read the stored time of message %d: %w", seq, found.Error)
	}
	return &found.Message.Time, nil
}

// CountUnread returns how many messages of a partition the stream holds after
// one sequence and through another: what a reader that is past the first has not
// read. It reads only one of them. Messages that are stored meanwhile may be
// counted too, where the partition has others unread.
func CountUnread(ctx context.Context, nc *nats.Conn, partition int, after, through int64) (int64, error) {
	var sum int64
	for _, subject := range storedSubjects(partition) {
		n, err := countUnread(ctx, nc, subject, after, through)
		if err != nil {
			return 0, fmt.Errorf("count the unread messages of partition %d after %d: %w", partition, after, err)
		}
		sum += n
	}
	return max(0, min(sum, through-after)), nil
}

// storedSubjects match the messages of a partition. Those with a literal
// wildcard are stored without a partition's number: see ParseStored.
func storedSubjects(partition int) []string {
	numbered := fmt.Sprintf("*.%d.*.*", partition)
	if partition == 0 {
		return []string{numbered, transformSource}
	}
	return []string{numbered}
}

// nextOf asks for the next message on a subject, as the first of a batch: only
// then the server says how many follow.
type nextOf struct {
	Seq     int64  `json:"seq"`
	Subject string `json:"next_by_subj"`
	Batch   int    `json:"batch"`
}

func countUnread(ctx context.Context, nc *nats.Conn, subject string, after, through int64) (int64, error) {
	request, err := json.Marshal(nextOf{Seq: after + 1, Subject: subject, Batch: 1})
	if err != nil {
		return 0, err
	}
	answer, err := nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+StreamName, request)
	if err != nil {
		return 0, err
	}
	seq, isMessage, err := lastHeader(answer, jetstream.SequenceHeader)
	switch {
	case err != nil:
		return 0, err
	case !isMessage && answer.Header.Get("Status") == "404":
		return 0, nil
	case !isMessage:
		return 0, fmt.Errorf("the server answers %s %s", answer.Header.Get("Status"), answer.Header.Get("Description"))
	case seq > through:
		return 0, nil
	}
	following, _, err := lastHeader(answer, "Nats-Num-Pending")
	return following + 1, err
}

// lastHeader reads a number that the server put behind a message's own headers,
// which may have one of the same name.
func lastHeader(m *nats.Msg, name string) (n int64, found bool, err error) {
	values := m.Header[name]
	if len(values) == 0 {
		return 0, false, nil
	}
	n, err = strconv.ParseInt(values[len(values)-1], 10, 64)
	return n, true, err
}
