package ingest

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Waiting is how many messages of a partition the stream holds after one
// sequence and through another: what waits for a reader that is past the first.
// It reads none of them but one. Messages that come in while it asks may be
// among those of a partition that has others waiting.
func Waiting(ctx context.Context, nc *nats.Conn, partition int, after, through int64) (int64, error) {
	var sum int64
	for _, subject := range storedSubjects(partition) {
		n, err := waitingOn(ctx, nc, subject, after, through)
		if err != nil {
			return 0, fmt.Errorf("count what waits of partition %d after %d: %w", partition, after, err)
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
// then the server tells how many follow.
type nextOf struct {
	Seq     int64  `json:"seq"`
	Subject string `json:"next_by_subj"`
	Batch   int    `json:"batch"`
}

func waitingOn(ctx context.Context, nc *nats.Conn, subject string, after, through int64) (int64, error) {
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
		return 0, fmt.Errorf("the server says %s %s", answer.Header.Get("Status"), answer.Header.Get("Description"))
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
