package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
)

// StreamName is the stream that holds every event and every correction.
const StreamName = "USAGE"

// Limits of the stream that are no setting.
const (
	// MaxMessageBytes bounds a stored message with its headers. It leaves room
	// above the largest payload, so that one that is a little too large becomes
	// a dead letter that can be read, not a lost publish.
	MaxMessageBytes = 72 << 10

	// DuplicateWindow is how long the server remembers message ids: long enough
	// for a retry after a short break, short enough that "the same bytes twice"
	// stays the exception that Postgres decides.
	DuplicateWindow = 2 * time.Second
)

// Values of StreamConfig when its fields are zero.
const (
	DefaultPartitions = 4
	DefaultMaxAge     = 35 * 24 * time.Hour
)

// StreamConfig is what an operator chooses about the stream.
type StreamConfig struct {
	Partitions int           // how many partitions tenants are dealt to; 0: DefaultPartitions. Acts only when the stream is created
	MaxAge     time.Duration // how long messages are kept; 0: DefaultMaxAge
	MaxBytes   int64         // bytes at which publishing is refused; 0 and -1: no limit
	Replicas   int           // servers that hold a copy, 1 to 5; 0: 1
}

func (c StreamConfig) withDefaults() StreamConfig {
	if c.Partitions == 0 {
		c.Partitions = DefaultPartitions
	}
	if c.MaxAge == 0 {
		c.MaxAge = DefaultMaxAge
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = -1
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	return c
}

// jetstream is the server's form of the configuration.
func (c StreamConfig) jetstream() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        StreamName,
		Description: "usage events and corrections; the evidence, never edited",
		Subjects:    subjects(),
		SubjectTransform: &jetstream.SubjectTransformConfig{
			Source:      transformSource,
			Destination: transformDestination(c.Partitions),
		},
		Storage:            jetstream.FileStorage,
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardNew,
		MaxAge:             c.MaxAge,
		MaxBytes:           c.MaxBytes,
		MaxMsgSize:         MaxMessageBytes,
		Duplicates:         DuplicateWindow,
		Replicas:           c.Replicas,
		DenyDelete:         true,
		DenyPurge:          true,
		AllowDirect:        true,
		AllowAtomicPublish: true,
	}
}

func subjects() []string { return []string{usageToken + ".*.*", adjustToken + ".*.*"} }

// The subject transform puts a partition's number behind the first token, by a
// hash of the tenant's token, so that usage and corrections of one tenant share
// a partition. odometer.PartitionOf computes the same number.
const transformSource = "*.*.*"

func transformDestination(partitions int) string {
	return fmt.Sprintf("{{wildcard(1)}}.{{partition(%d,2)}}.{{wildcard(2)}}.{{wildcard(3)}}", partitions)
}

// partitionsOf reads the number of partitions from a transform's destination.
func partitionsOf(destination string) (int, bool) {
	var n int
	if _, err := fmt.Sscanf(destination, "{{wildcard(1)}}.{{partition(%d,2)}}", &n); err != nil {
		return 0, false
	}
	return n, n > 0 && destination == transformDestination(n)
}

// First tokens of the subjects, one for each kind of event.
const (
	usageToken  = "usage"
	adjustToken = "adjust"
)

// Subject is where an event of this kind, tenant and agent is published:
// `usage.<tenant>.<agent>`, or `adjust.<tenant>.<agent>` for a correction.
// The agent must have the form odometer.ValidAgent asks for.
func Subject(kind odometer.Kind, tenant uuid.UUID, agent string) string {
	first := usageToken
	if kind == odometer.Adjustment {
		first = adjustToken
	}
	return first + "." + tenant.String() + "." + agent
}

// ParseStored takes a subject apart as the stream stores it,
// `usage.<partition>.<tenant>.<agent>` or `adjust.…`. The tokens of tenant and
// agent are returned as they are; whether they are well-formed is for Decode to
// validate. A literal wildcard (`usage.*.inbox`) the server stores without the
// transform: such a message, whose tokens no tenant or agent can have, belongs
// to partition 0. It is not ok for any other form: a message that came into the
// stream some other way.
func ParseStored(subject string) (kind odometer.Kind, partition int, tenantToken, agentToken string, ok bool) {
	first, rest, _ := strings.Cut(subject, ".")
	number := "0"
	if strings.Count(rest, ".") > 1 {
		number, rest, _ = strings.Cut(rest, ".")
	}
	tenantToken, agentToken, ok = strings.Cut(rest, ".")
	if !ok || tenantToken == "" || agentToken == "" || strings.Contains(agentToken, ".") {
		return "", 0, "", "", false
	}
	switch first {
	case usageToken:
		kind = odometer.Usage
	case adjustToken:
		kind = odometer.Adjustment
	default:
		return "", 0, "", "", false
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return "", 0, "", "", false
	}
	return kind, int(n), tenantToken, agentToken, true
}

// Stream is the stream as it is, found fit to keep the promises of this package.
type Stream struct {
	jetstream.Stream

	Partitions int // in force: from the stream's transform, whatever was asked for
	Replicas   int // in force; with more than one, a message's time is set before its quorum

	// Differences from what was asked for that break no promise, a sentence each.
	Differences []string
}

// ErrStreamUnfit means that a stream USAGE exists and could lose, change or
// misplace events. Its text names each difference with both values.
var ErrStreamUnfit = errors.New("the stream " + StreamName + " is not fit to hold events")

// EnsureStream creates the stream when there is none, and otherwise checks the
// one that is there. It changes no existing stream: a difference that breaks a
// promise is ErrStreamUnfit, the others are listed in Stream.Differences. Any
// number of processes may call it at once. It needs a JetStream whose server
// answers; the context bounds the wait.
func EnsureStream(ctx context.Context, js jetstream.JetStream, c StreamConfig) (*Stream, error) {
	c = c.withDefaults()
	if c.Partitions < 1 {
		return nil, fmt.Errorf("create stream %s: %d partitions; set at least 1", StreamName, c.Partitions)
	}
	found, err := findOrCreate(ctx, js, c)
	if err != nil {
		return nil, err
	}
	have := found.CachedInfo().Config
	broken, differences := compare(c.jetstream(), have)
	if len(broken) > 0 {
		return nil, fmt.Errorf("%w: %s; correct it with `nats stream edit %s`, or move what it holds to a stream of that form",
			ErrStreamUnfit, strings.Join(broken, "; "), StreamName)
	}
	n, _ := partitionsOf(have.SubjectTransform.Destination)
	return &Stream{Stream: found, Partitions: n, Replicas: have.Replicas, Differences: differences}, nil
}

// A server forgets the name of a stream that is deleted before it has moved
// the files away. A stream that is made in between fails, or loses its files.
const (
	removalPause = 250 * time.Millisecond // between two attempts
	removalLimit = 5 * time.Second        // after which a failure has another cause
)

// codeStreamCreate is the server's code for what no other one fits, such as
// files that cannot be made.
const codeStreamCreate jetstream.ErrorCode = 10049

// findOrCreate creates a stream that is missing twice, and finds it when
// another process was faster.
func findOrCreate(ctx context.Context, js jetstream.JetStream, c StreamConfig) (jetstream.Stream, error) {
	found, err := js.Stream(ctx, StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err := odometer.Sleep(ctx, removalPause); err != nil {
			return nil, fmt.Errorf("create stream %s: %w", StreamName, err)
		}
		found, err = js.Stream(ctx, StreamName)
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		found, err = create(ctx, js, c)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return nil, fmt.Errorf("create stream %s: %w; no other stream may take %s, %d replicas need as many servers, and their storage must take files (see the server's log)",
				StreamName, err, strings.Join(subjects(), " or "), c.Replicas)
		}
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		found, err = js.Stream(ctx, StreamName)
	}
	if err != nil {
		return nil, fmt.Errorf("find stream %s: %w; the NATS server must run, with JetStream on for this account", StreamName, err)
	}
	return found, nil
}

func create(ctx context.Context, js jetstream.JetStream, c StreamConfig) (jetstream.Stream, error) {
	for began := time.Now(); ; {
		made, err := js.CreateStream(ctx, c.jetstream())
		var refused *jetstream.APIError
		transient := errors.As(err, &refused) && refused.ErrorCode == codeStreamCreate && time.Since(began) < removalLimit
		if !transient || odometer.Sleep(ctx, removalPause) != nil {
			return made, err
		}
	}
}

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

// compare separates the differences that break a promise from those that do not.
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
		{"subjects", have.Subjects, want.Subjects, !slices.Equal(haveSubjects, wantSubjects), "some events would be lost, or other messages read as events"},
		{"subject transform", transform.Source + " -> " + transform.Destination, want.SubjectTransform.Source + " -> " + want.SubjectTransform.Destination,
			!known || transform.Source != want.SubjectTransform.Source, "no reader would know a message's partition"},
		{"mirror", have.Mirror != nil, false, have.Mirror != nil, "nothing could be published to it"},
		{"number of sources", len(have.Sources), 0, len(have.Sources) > 0, "messages would come in that were not published here"},
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
		{"discard", have.Discard, want.Discard, have.Discard != want.Discard, "a full stream would drop its oldest events silently"},
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

// SyncAlways asks a NATS server's monitoring address, such as
// http://127.0.0.1:8222, whether the server syncs its disk before it
// acknowledges a message (`sync_interval: always`). Without that, a power
// failure loses what was acknowledged in the last two minutes. The answer is
// that of one server; in a cluster, ask each. An error means unknown, not no.
func SyncAlways(ctx context.Context, monitorURL string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	url := strings.TrimSuffix(monitorURL, "/") + "/jsz?config=1"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, fmt.Errorf("ask %s whether the server syncs: %w; give the server's monitoring address, such as http://127.0.0.1:8222", url, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, fmt.Errorf("ask whether the server syncs: %w; give the server's monitoring address, such as http://127.0.0.1:8222", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("ask %s whether the server syncs: status %s; give the server's monitoring address, such as http://127.0.0.1:8222", url, resp.Status)
	}
	var answer struct {
		Disabled bool `json:"disabled"`
		Config   *struct {
			SyncAlways bool `json:"sync_always"`
		} `json:"config"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return false, fmt.Errorf("ask %s whether the server syncs: %w; is it a NATS server's monitoring address?", url, err)
	}
	if answer.Disabled || answer.Config == nil {
		return false, fmt.Errorf("ask %s whether the server syncs: JetStream is off there; ask a server that holds the stream", url)
	}
	return answer.Config.SyncAlways, nil
}
