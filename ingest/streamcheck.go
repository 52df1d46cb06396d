package ingest

import (
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// difference is one point of a stream's configuration.
type difference struct {
	what       string
	have, want any
	differs    bool
	why        string // what it would cost, or why it costs nothing
}

func (d difference) String() string {
	return fmt.Sprintf("%s is %v, should be %v (%s)", d.what, d.have, d.want, d.why)
}

// compare tells the differences that break a promise from those that do not.
func compare(want, have jetstream.StreamConfig) (broken, harmless []string) {
	for _, d := range slices.Concat(brokenForm(want, have), brokenStore(want, have)) {
		if d.differs {
			broken = append(broken, d.String())
		}
	}
	for _, d := range harmlessDifferences(want, have) {
		if d.differs {
			harmless = append(harmless, d.String())
		}
	}
	return broken, harmless
}

// brokenForm checks that what is stored are events under the stored subjects,
// as their senders wrote them.
func brokenForm(want, have jetstream.StreamConfig) []difference {
	transform := jetstream.SubjectTransformConfig{}
	if have.SubjectTransform != nil {
		transform = *have.SubjectTransform
	}
	_, known := partitionsOf(transform.Destination)
	haveSubjects := slices.Sorted(slices.Values(have.Subjects))
	wantSubjects := slices.Sorted(slices.Values(want.Subjects))
	return []difference{
		{"subjects", have.Subjects, want.Subjects, !slices.Equal(haveSubjects, wantSubjects), "other events would be lost, or other messages taken for events"},
		{"subject transform", transform.Source + " -> " + transform.Destination, want.SubjectTransform.Source + " -> " + want.SubjectTransform.Destination,
			!known || transform.Source != want.SubjectTransform.Source, "no reader could tell a message's partition"},
		{"mirror", have.Mirror != nil, false, have.Mirror != nil, "nothing could be published to it"},
		{"number of sources", len(have.Sources), 0, len(have.Sources) > 0, "messages would come in that nobody published here"},
		{"allow_msg_counter", have.AllowMsgCounter, false, have.AllowMsgCounter, "the server would rewrite payloads"},
		{"allow_msg_schedules", have.AllowMsgSchedules, false, have.AllowMsgSchedules, "the server would write messages of its own"},
		{"allow_atomic", have.AllowAtomicPublish, true, !have.AllowAtomicPublish, "no batches; it needs nats-server 2.12 or newer"},
		{"max_msg_size", have.MaxMsgSize, want.MaxMsgSize, have.MaxMsgSize >= 0 && have.MaxMsgSize < want.MaxMsgSize, "valid events would be refused"},
	}
}

// brokenStore checks that what is stored stays.
func brokenStore(want, have jetstream.StreamConfig) []difference {
	return []difference{
		{"retention", have.Retention, want.Retention, have.Retention != want.Retention, "events would go before they are counted"},
		{"discard", have.Discard, want.Discard, have.Discard != want.Discard, "a full stream would drop its oldest events without a word"},
		{"storage", have.Storage, want.Storage, have.Storage != want.Storage, "a restart would lose events"},
		{"persist_mode", have.PersistMode, jetstream.DefaultPersistMode, have.PersistMode != jetstream.DefaultPersistMode, "acknowledged events would not be synced"},
		{"deny_delete", have.DenyDelete, true, !have.DenyDelete, "evidence could be deleted"},
		{"deny_purge", have.DenyPurge, true, !have.DenyPurge, "evidence could be purged"},
		{"allow_rollup_hdrs", have.AllowRollup, false, have.AllowRollup, "a publisher could replace evidence"},
		{"allow_msg_ttl", have.AllowMsgTTL, false, have.AllowMsgTTL, "a publisher could let an event expire before it is counted"},
		{"max_msgs_per_subject", have.MaxMsgsPerSubject, -1, have.MaxMsgsPerSubject > 0, "older events of an agent would be dropped"},
		{"no_ack", have.NoAck, false, have.NoAck, "no publisher would learn that its event is stored"},
		{"sealed", have.Sealed, false, have.Sealed, "nothing could be published"},
	}
}

// harmlessDifferences are those an operator should hear of and may want.
func harmlessDifferences(want, have jetstream.StreamConfig) []difference {
	asked, _ := partitionsOf(want.SubjectTransform.Destination)
	inForce, _ := partitionsOf(partitionsText(have))
	return []difference{
		{"partitions", inForce, asked, inForce != asked, "chosen when the stream was made; what is in force is used"},
		{"max_age", age(have.MaxAge), age(want.MaxAge), have.MaxAge != want.MaxAge, "how far back a replay can reach"},
		{"max_bytes", have.MaxBytes, want.MaxBytes, have.MaxBytes != want.MaxBytes, "beyond it publishing is refused"},
		{"max_msgs", have.MaxMsgs, -1, have.MaxMsgs > 0, "beyond it publishing is refused"},
		{"num_replicas", have.Replicas, want.Replicas, have.Replicas != want.Replicas, "how many servers may fail"},
		{"duplicate_window", have.Duplicates, want.Duplicates, have.Duplicates != want.Duplicates, "how long the same bytes are stored only once; they are counted once anyway"},
		{"max_msg_size", have.MaxMsgSize, want.MaxMsgSize, have.MaxMsgSize < 0 || have.MaxMsgSize > want.MaxMsgSize, "larger messages become dead letters"},
		{"allow_direct", have.AllowDirect, true, !have.AllowDirect, "reading one message is slower, and the lag is not known to the dashboard"},
	}
}

func partitionsText(c jetstream.StreamConfig) string {
	if c.SubjectTransform == nil {
		return ""
	}
	return c.SubjectTransform.Destination
}

func age(d time.Duration) string {
	if d == 0 {
		return "unlimited"
	}
	return d.String()
}
