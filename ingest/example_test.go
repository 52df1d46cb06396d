package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"odometer"
	"odometer/ingest"
	"odometer/ingest/natstest"
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
	publisher, err := ingest.NewPublisher(nc)
	if err != nil {
		log.Fatal(err)
	}

	// Made, and stored by the agent, before it acts: a repeat after a crash
	// must be the same event.
	event := ingest.Event{
		Tenant:         uuid.MustParse("0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5"),
		Agent:          "inbox",
		IdempotencyKey: "email:msg_01HF7YAT9Q",
		ActionType:     "email_processed",
		OccurredAt:     time.Now(),
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for range 2 { // the second time stands for the repeat
		ack, err := publisher.Publish(ctx, event)
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
	publisher, err := ingest.NewPublisher(nc)
	if err != nil {
		log.Fatal(err)
	}

	tenant := uuid.MustParse("0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5")
	results, err := publisher.PublishBatch(context.Background(), []ingest.Event{
		{Tenant: tenant, Agent: "invoice", IdempotencyKey: "invoice:17", ActionType: "invoice_detected"},
		{Tenant: tenant, Agent: "invoice", IdempotencyKey: "invoice:18", ActionType: "invoice_detected", Quantity: -1},
		{Tenant: tenant, Agent: "invoice", IdempotencyKey: "invoice:19", ActionType: "invoice_detected"},
	})
	if err != nil {
		log.Fatal(err) // some may be stored, others not: publish all of them again
	}
	for _, r := range results {
		var rejection *odometer.Rejection
		if errors.As(r.Err, &rejection) {
			fmt.Println(r.Key, rejection) // never valid: mend the agent
			continue
		}
		fmt.Println(r.Key, "is stored")
	}
	// Output:
	// invoice:17 is stored
	// invoice:18 invalid_field: quantity is -1; allowed: a whole number from 1 to 1000000000, in digits only
	// invoice:19 is stored
}

func ExamplePublishFile() {
	url, stop := exampleServer(ingest.StreamConfig{})
	defer stop()

	nc, err := nats.Connect(url)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	publisher, err := ingest.NewPublisher(nc)
	if err != nil {
		log.Fatal(err)
	}

	file := strings.NewReader(`
{"tenant_id":"0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5","agent":"meeting","idempotency_key":"m-1","action_type":"meeting_prep"}
{"tenant_id":"0b6e1a52-7f3c-4a60-9d0a-61a3f0b7c2d5","agent":"meeting","idempotency_key":"m-2"}
`)
	report, err := ingest.PublishFile(context.Background(), publisher, file, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("stored:", report.Stored)
	for _, line := range report.InvalidLines {
		fmt.Printf("line %d, key %s: %v\n", line.Number, line.Key, line.Reason)
	}
	// Output:
	// stored: 1
	// line 3, key m-2: invalid_field: action_type is missing; allowed: a string
}
