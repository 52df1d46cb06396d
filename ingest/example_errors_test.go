package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/ingest"
)

// What an agent does with each answer. Here the stream is full at first.
func ExamplePublisher_Publish_backPressure() {
	url, stop := exampleServer(ingest.StreamConfig{MaxBytes: 1})
	defer stop()

	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	publisher, err := ingest.NewPublisher(nc)
	if err != nil {
		log.Fatal(err)
	}

	event := ingest.Event{
		Tenant: uuid.MustParse("0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5"), Agent: "inbox",
		IdempotencyKey: "email:msg_01HF7YAT9Q", ActionType: "email_processed", OccurredAt: time.Now(),
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		_, err := publisher.Publish(ctx, event)
		var rejection *odometer.Rejection
		switch {
		case err == nil:
			fmt.Println("stored: mark it published")
			return
		case errors.As(err, &rejection):
			fmt.Println("never valid: mend the agent")
			return
		case errors.Is(err, ingest.ErrStreamFull):
			fmt.Println("full: begin no new work, keep the event, try again after a pause")
			makeRoom(nc)
		default:
			fmt.Println("not known, or a wrong set-up: keep the event, tell an operator, try again later")
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
	publisher, err := ingest.NewPublisher(nc)
	if err != nil {
		log.Fatal(err)
	}

	event := ingest.Raw{
		Tenant:     uuid.MustParse("0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5"),
		Agent:      "invoice",
		CloudEvent: true,
		Payload: fmt.Appendf(nil, `{"specversion":"1.0","id":"invoice:17","source":"/agents/invoice","type":"invoice.invoice_detected",`+
			`"time":%q,"data":{"quantity":2,"resource_id":"INV-17"}}`, time.Now().UTC().Format(time.RFC3339)),
	}
	ack, err := publisher.PublishRaw(context.Background(), event)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ack.Seq)
	// Output:
	// 1
}

// In an agent's own tests: is what it would publish valid? Whether the catalogue
// has the action, only the reader of the stream can tell.
func ExampleValidate() {
	event := ingest.Raw{
		Tenant:  uuid.MustParse("0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5"),
		Agent:   "inbox",
		Payload: []byte(`{"idempotency_key":"email:17","action_type":"email_processed","quantity":1.5}`),
	}
	if rejection := ingest.Validate(event, time.Now()); rejection != nil {
		fmt.Println(rejection)
	}
	// Output:
	// invalid_field: quantity is 1.5; allowed: a whole number from 1 to 1000000000, in digits only
}
