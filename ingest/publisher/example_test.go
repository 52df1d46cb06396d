package publisher_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer/ingest"
	"odometer/ingest/natstest"
	"odometer/ingest/publisher"
)

// exampleServer stands for the NATS server that an agent connects to, with the
// stream that `odometer run` makes.
func exampleServer(c ingest.StreamConfig) (url string, stop func()) {
	dir, err := os.MkdirTemp("", "natstest")
	if err != nil {
		log.Fatal(err)
	}
	server, err := natstest.Start(dir)
	if err != nil {
		log.Fatal(err)
	}
	nc, err := nats.Connect(server.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := ingest.EnsureStream(context.Background(), js, c); err != nil {
		log.Fatal(err)
	}
	return server.URL(), func() {
		server.Stop()
		os.RemoveAll(dir)
	}
}

func ExamplePublisher_Publish() {
	url, stop := exampleServer(ingest.StreamConfig{})
	defer stop()

	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	pub, err := publisher.New(nc)
	if err != nil {
		log.Fatal(err)
	}

	// Made, and stored by the agent, before it acts: a repeat after a crash
	// must be the same event.
	event := publisher.Event{
		Tenant:         uuid.MustParse("0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5"),
		Agent:          "inbox",
		IdempotencyKey: "email:msg_01HF7YAT9Q",
		ActionType:     "email_processed",
		OccurredAt:     time.Now(),
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for range 2 { // the second time stands for the repeat
		ack, err := pub.Publish(ctx, event)
		if err != nil {
			log.Fatal(err) // keep the event, and publish it again later
		}
		fmt.Println(ack.Seq, ack.Duplicate)
	}
	// Output:
	// 1 false
	// 1 true
}

func ExamplePublisher_PublishBatch() {
	url, stop := exampleServer(ingest.StreamConfig{})
	defer stop()

	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	pub, err := publisher.New(nc)
	if err != nil {
		log.Fatal(err)
	}

	tenant := uuid.MustParse("0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5")
	results, err := pub.PublishBatch(context.Background(), []publisher.Event{
		{Tenant: tenant, Agent: "invoice", IdempotencyKey: "invoice:17", ActionType: "invoice_detected"},
		{Tenant: tenant, Agent: "invoice", IdempotencyKey: "invoice:18", ActionType: "invoice_detected", Quantity: -1},
		{Tenant: tenant, Agent: "invoice", IdempotencyKey: "invoice:19", ActionType: "invoice_detected"},
	})
	if err != nil {
		log.Fatal(err) // some may be stored, others not: publish all of them again
	}
	for _, r := range results {
		var rejection *publisher.Rejection
		if errors.As(r.Err, &rejection) {
			fmt.Println(r.Key, rejection) // never valid: fix the agent
			continue
		}
		fmt.Println(r.Key, "is stored")
	}
	// Output:
	// invoice:17 is stored
	// invoice:18 invalid_field: quantity is -1; allowed: a whole number from 1 to 1000000000
	// invoice:19 is stored
}

// What an agent does with each answer. Here the stream is full at first.
func ExamplePublisher_Publish_backPressure() {
	url, stop := exampleServer(ingest.StreamConfig{MaxBytes: 1})
	defer stop()

	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	pub, err := publisher.New(nc)
	if err != nil {
		log.Fatal(err)
	}

	event := publisher.Event{
		Tenant: uuid.MustParse("0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5"), Agent: "inbox",
		IdempotencyKey: "email:msg_01HF7YAT9Q", ActionType: "email_processed", OccurredAt: time.Now(),
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		_, err := pub.Publish(ctx, event)
		var rejection *publisher.Rejection
		switch {
		case err == nil:
			fmt.Println("stored: mark it published")
			return
		case errors.As(err, &rejection):
			fmt.Println("never valid: fix the agent")
			return
		case errors.Is(err, publisher.ErrStreamFull):
			fmt.Println("full: begin no new work, keep the event, try again after a pause")
			makeRoom(nc)
		default:
			fmt.Println("not known, or a wrong set-up: keep the event, inform an operator, try again later")
			return
		}
	}
	// Output:
	// full: begin no new work, keep the event, try again after a pause
	// stored: mark it published
}

// makeRoom is what an operator does about a full stream.
func makeRoom(nc *nats.Conn) {
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	stream, err := js.Stream(context.Background(), ingest.StreamName)
	if err != nil {
		log.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxBytes = 1 << 30
	if _, err := js.UpdateStream(context.Background(), config); err != nil {
		log.Fatal(err)
	}
}

// An agent that speaks CloudEvents publishes them as they are: id is the
// idempotency key, type names agent and action, time is when it occurred.
func ExamplePublisher_PublishRaw() {
	url, stop := exampleServer(ingest.StreamConfig{})
	defer stop()

	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	pub, err := publisher.New(nc)
	if err != nil {
		log.Fatal(err)
	}

	event := publisher.Raw{
		Tenant:     uuid.MustParse("0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5"),
		Agent:      "invoice",
		CloudEvent: true,
		Payload: fmt.Appendf(nil, `{"specversion":"1.0","id":"invoice:17","source":"/agents/invoice","type":"invoice.invoice_detected",`+
			`"time":%q,"data":{"quantity":2,"resource_id":"INV-17"}}`, time.Now().UTC().Format(time.RFC3339)),
	}
	ack, err := pub.PublishRaw(context.Background(), event)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ack.Seq)
	// Output:
	// 1
}

// In an agent's own tests: is what it would publish valid? Whether the catalogue
// has the action, only the reader of the stream knows.
func ExampleEncode() {
	event := publisher.Event{
		Tenant:         uuid.MustParse("0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5"),
		Agent:          "inbox",
		IdempotencyKey: "email:17",
		ActionType:     "email_processed",
		Quantity:       -1,
	}
	if _, rejection := publisher.Encode(event, time.Now()); rejection != nil {
		fmt.Println(rejection)
	}
	// Output:
	// invalid_field: quantity is -1; allowed: a whole number from 1 to 1000000000
}
