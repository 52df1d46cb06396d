package ingest_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/natstest"
)

// soon bounds a test's waiting; no test needs nearly as long.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func jetStream(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func ensure(t *testing.T, nc *nats.Conn, c ingest.StreamConfig) *ingest.Stream {
	t.Helper()
	stream, err := ingest.EnsureStream(soon(t), jetStream(t, nc), c)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func TestStreamIsCreatedOnce(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	nc := server.Connect(t)
	made := ensure(t, nc, ingest.StreamConfig{})
	found := ensure(t, nc, ingest.StreamConfig{})
	for _, s := range []*ingest.Stream{made, found} {
		if s.Partitions != 4 || s.Replicas != 1 || len(s.Differences) != 0 {
			t.Errorf("partitions %d, replicas %d, differences %q", s.Partitions, s.Replicas, s.Differences)
		}
	}
	c := found.CachedInfo().Config
	if c.MaxAge != 35*24*time.Hour || c.MaxBytes != -1 || c.MaxMsgSize != 72<<10 || c.Duplicates != 2*time.Second {
		t.Errorf("configuration is %+v", c)
	}
}

func TestProcessesCreateTheStreamConcurrently(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	ctx := soon(t)
	var all errgroup.Group
	for partitions := range 8 {
		js := jetStream(t, server.Connect(t))
		all.Go(func() error {
			_, err := ingest.EnsureStream(ctx, js, ingest.StreamConfig{Partitions: 1 + partitions%2})
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
}

// made creates a stream as an operator might have, by hand.
func made(t *testing.T, js jetstream.JetStream, change func(*jetstream.StreamConfig)) {
	t.Helper()
	c := jetstream.StreamConfig{
		Name: ingest.StreamName, Subjects: []string{"adjust.*.*", "usage.*.*"},
		SubjectTransform: &jetstream.SubjectTransformConfig{
			Source: "*.*.*", Destination: "{{wildcard(1)}}.{{partition(4,2)}}.{{wildcard(2)}}.{{wildcard(3)}}",
		},
		Discard: jetstream.DiscardNew, MaxAge: 35 * 24 * time.Hour, MaxMsgSize: 72 << 10, Duplicates: 2 * time.Second,
		DenyDelete: true, DenyPurge: true, AllowDirect: true, AllowAtomicPublish: true,
	}
	change(&c)
	if _, err := js.CreateStream(soon(t), c); err != nil {
		t.Fatal(err)
	}
}

func TestUnfitStreamIsRefused(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*jetstream.StreamConfig){
		"retention is WorkQueue, should be Limits":    func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy },
		"discard is DiscardOld, should be DiscardNew": func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld },
		"storage is Memory, should be File":           func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"deny_delete is false, should be true":        func(c *jetstream.StreamConfig) { c.DenyDelete = false },
		"deny_purge is false, should be true":         func(c *jetstream.StreamConfig) { c.DenyPurge = false },
		"allow_atomic is false, should be true":       func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false },
		"allow_rollup_hdrs is true, should be false":  func(c *jetstream.StreamConfig) { c.AllowRollup, c.DenyPurge = true, false },
		"allow_msg_ttl is true, should be false":      func(c *jetstream.StreamConfig) { c.AllowMsgTTL = true },
		"max_msg_size is 1024, should be 73728":       func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1024 },
		"max_msgs_per_subject is 5, should be -1":     func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 },
		"no_ack is true, should be false":             func(c *jetstream.StreamConfig) { c.NoAck, c.AllowAtomicPublish = true, false },
		"persist_mode is Async, should be Default": func(c *jetstream.StreamConfig) {
			c.PersistMode, c.AllowAtomicPublish = jetstream.AsyncPersistMode, false
		},
		"subjects is [usage.*.*], should be [usage.*.*": func(c *jetstream.StreamConfig) { c.Subjects = []string{"usage.*.*"} },
		"number of sources is 1, should be 0": func(c *jetstream.StreamConfig) {
			c.Sources = []*jetstream.StreamSource{{Name: "OTHER"}}
		},
		"subject transform is  -> , should be *.*.* -> {{wildcard(1)}}.{{partition(4,2)}}": func(c *jetstream.StreamConfig) { c.SubjectTransform = nil },
		"subject transform is *.*.* -> {{wildcard(1)}}.{{partition(4,3)}}": func(c *jetstream.StreamConfig) {
			c.SubjectTransform.Destination = "{{wildcard(1)}}.{{partition(4,3)}}.{{wildcard(2)}}.{{wildcard(3)}}"
		},
		"subject transform is usage.*.* ->": func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "usage.*.*", Destination: "usage.{{partition(4,1)}}.{{wildcard(1)}}.{{wildcard(2)}}"}
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			js := jetStream(t, natstest.Run(t).Connect(t))
			made(t, js, change)
			_, err := ingest.EnsureStream(soon(t), js, ingest.StreamConfig{})
			if !errors.Is(err, ingest.ErrStreamUnfit) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "nats stream edit") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestHarmlessDifferenceIsReportedAndKept(t *testing.T) {
	t.Parallel()
	js := jetStream(t, natstest.Run(t).Connect(t))
	made(t, js, func(c *jetstream.StreamConfig) {
		c.MaxAge, c.MaxBytes, c.MaxMsgs, c.MaxMsgSize, c.Duplicates = 0, 1<<20, 1000, 1<<20, time.Minute
		c.SubjectTransform.Destination = strings.Replace(c.SubjectTransform.Destination, "4", "7", 1)
		c.AllowDirect = false
	})
	for range 2 {
		stream, err := ingest.EnsureStream(soon(t), js, ingest.StreamConfig{MaxBytes: 2 << 20, Replicas: 3})
		if err != nil {
			t.Fatal(err)
		}
		if stream.Partitions != 7 || stream.Replicas != 1 {
			t.Errorf("partitions %d, replicas %d", stream.Partitions, stream.Replicas)
		}
		want := []string{
			"partitions is 7, should be 4", "max_age is unlimited, should be 840h0m0s", "max_bytes is 1048576, should be 2097152", "max_msgs is 1000, should be -1",
			"num_replicas is 1, should be 3", "duplicate_window is 1m0s, should be 2s", "max_msg_size is 1048576, should be 73728", "allow_direct is false, should be true",
		}
		if !slices.EqualFunc(stream.Differences, want, strings.HasPrefix) {
			t.Errorf("differences:\n%s", strings.Join(stream.Differences, "\n"))
		}
	}
}

func TestMissingJetStreamIsNamedInTheError(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, natstest.WithoutJetStream())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := ingest.EnsureStream(ctx, jetStream(t, server.Connect(t)), ingest.StreamConfig{})
	if err == nil || !strings.Contains(err.Error(), "USAGE") {
		t.Errorf("got %v", err)
	}
}

func TestForeignStreamOnTheSubjectsIsNamed(t *testing.T) {
	t.Parallel()
	js := jetStream(t, natstest.Run(t).Connect(t))
	if _, err := js.CreateStream(soon(t), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"usage.>"}}); err != nil {
		t.Fatal(err)
	}
	_, err := ingest.EnsureStream(soon(t), js, ingest.StreamConfig{})
	if err == nil || !strings.Contains(err.Error(), "no other stream may take usage.*.* or adjust.*.*") {
		t.Errorf("got %v", err)
	}
}

func TestServerPartitionsTenantsAsPartitionOfDoes(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 4, 7} {
		server := natstest.Run(t)
		nc := server.Connect(t)
		stream := ensure(t, nc, ingest.StreamConfig{Partitions: partitions})
		if stream.Partitions != partitions {
			t.Fatalf("%d partitions in force, %d asked for", stream.Partitions, partitions)
		}
		for i := range 1000 {
			kind := odometer.Usage
			if i%2 == 1 {
				kind = odometer.Adjustment
			}
			if err := nc.Publish(ingest.Subject(kind, uuid.New(), "inbox"), []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
		wantDealt(t, stream, 1000)
	}
}

// wantDealt reads all of a stream's messages.
func wantDealt(t *testing.T, stream *ingest.Stream, messages int) {
	t.Helper()
	consumer, err := stream.OrderedConsumer(soon(t), jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := consumer.Fetch(messages, jetstream.FetchMaxWait(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for m := range batch.Messages() {
		kind, partition, tenant, agent, ok := ingest.ParseStored(m.Subject())
		if !ok || agent != "inbox" || partition != odometer.PartitionOf(uuid.MustParse(tenant), stream.Partitions) {
			t.Errorf("%s: kind %s, partition %d of %d, tenant %s, agent %s, %t", m.Subject(), kind, partition, stream.Partitions, tenant, agent, ok)
		}
		read++
	}
	if read != messages || batch.Error() != nil {
		t.Errorf("read %d of %d: %v", read, messages, batch.Error())
	}
}

func TestOnlyStoredSubjectsAreParsed(t *testing.T) {
	t.Parallel()
	kind, partition, tenant, agent, ok := ingest.ParseStored("adjust.12.Any Thing.x")
	if !ok || kind != odometer.Adjustment || partition != 12 || tenant != "Any Thing" || agent != "x" {
		t.Error(kind, partition, tenant, agent, ok)
	}
	// The server stores a literal wildcard without the transform.
	kind, partition, tenant, agent, ok = ingest.ParseStored("usage.*.inbox")
	if !ok || kind != odometer.Usage || partition != 0 || tenant != "*" || agent != "inbox" {
		t.Error(kind, partition, tenant, agent, ok)
	}
	for _, subject := range []string{
		"", "usage", "usage.1", "usage.1.t.", "usage.1..a", "usage.1.t.a.b", "usage.x.t.a", "usage.-1.t.a", "usage.+1.t.a",
		"usage.99999999999.t.a", "other.1.t.a", "Usage.1.t.a",
	} {
		if _, _, _, _, ok := ingest.ParseStored(subject); ok {
			t.Errorf("%q was parsed", subject)
		}
	}
}

func TestSyncAlwaysReadsTheServersSetting(t *testing.T) {
	t.Parallel()
	for want, opts := range map[bool][]natstest.Option{false: nil, true: {natstest.SyncAlways()}} {
		got, err := ingest.SyncAlways(soon(t), natstest.Run(t, opts...).MonitorURL()+"/")
		if err != nil || got != want {
			t.Errorf("got %t, %v; want %t", got, err, want)
		}
	}
	for _, url := range []string{natstest.Run(t, natstest.WithoutJetStream()).MonitorURL(), "http://127.0.0.1:1", "nonsense", ""} {
		if _, err := ingest.SyncAlways(soon(t), url); err == nil {
			t.Errorf("%q: no error", url)
		}
	}
}

// EnsureStream returns no error while the stream is being deleted, and a stream
// that is created again keeps what it stores.
func TestStreamDeletedDuringEnsureIsCreatedAgain(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	js := jetStream(t, server.Connect(t))
	ensure(t, server.Connect(t), ingest.StreamConfig{})
	for range 10 {
		running, end := ensureRepeatedly(soon(t), js)
		if err := js.DeleteStream(soon(t), ingest.StreamName); err != nil {
			t.Fatal(err)
		}
		stream := ensure(t, server.Connect(t), ingest.StreamConfig{})
		if ack, err := newPublisher(t, server.Connect(t)).Publish(soon(t), event("k")); err != nil || ack.Seq != 1 {
			t.Fatal(ack, err)
		}
		if _, err := stream.GetMsg(soon(t), 1); err != nil {
			t.Fatal(err)
		}
		end()
		if err := running.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// ensureRepeatedly calls EnsureStream in four goroutines until end is called.
func ensureRepeatedly(ctx context.Context, js jetstream.JetStream) (running *errgroup.Group, end func()) {
	running, ending := new(errgroup.Group), make(chan struct{})
	for range 4 {
		running.Go(func() error {
			for {
				select {
				case <-ending:
					return nil
				default:
				}
				if _, err := ingest.EnsureStream(ctx, js, ingest.StreamConfig{}); err != nil {
					return err
				}
			}
		})
	}
	return running, func() { close(ending) }
}
