package httpingest

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"odometer"
)

// event describes what package ingest reads; it is for the document alone.
type event struct {
	IdempotencyKey string         `json:"idempotency_key" minLength:"1" maxLength:"255" doc:"Printable characters; unique for the tenant. Make and store it before the act."`
	Agent          string         `json:"agent" pattern:"^[a-z][a-z0-9_-]{0,31}$" doc:"Who did it: an agent of the catalogue."`
	ActionType     string         `json:"action_type" minLength:"1" maxLength:"255" doc:"What was done: one of the agent's actions."`
	Quantity       *int64         `json:"quantity,omitempty" minimum:"1" maximum:"1000000000" default:"1" doc:"Units, in digits only."`
	ResourceID     *string        `json:"resource_id,omitempty" maxLength:"255" doc:"What it was done to."`
	OccurredAt     *time.Time     `json:"occurred_at,omitempty" doc:"When, with an offset: at most 5 minutes ahead and 90 days back. Without it: when it is stored."`
	Metadata       map[string]any `json:"metadata,omitempty" doc:"At most 8 KiB; no personal data: what is stored cannot be forgotten."`
	TenantID       *string        `json:"tenant_id,omitempty" format:"uuid" doc:"The token's tenant; any other is invalid."`

	_ struct{} `additionalProperties:"true"`
}

// cloudEvent is an event in structured JSON mode.
type cloudEvent struct {
	ID          string     `json:"id" minLength:"1" maxLength:"255" doc:"The idempotency key."`
	Source      string     `json:"source" minLength:"1"`
	SpecVersion string     `json:"specversion" enum:"1.0"`
	Type        string     `json:"type" doc:"<agent>.<action_type>"`
	Time        *time.Time `json:"time,omitempty" doc:"When it occurred."`
	Data        *cloudData `json:"data,omitempty"`

	_ struct{} `additionalProperties:"true"`
}

type cloudData struct {
	Quantity   *int64         `json:"quantity,omitempty" minimum:"1" maximum:"1000000000" default:"1"`
	ResourceID *string        `json:"resource_id,omitempty" maxLength:"255"`
	Metadata   map[string]any `json:"metadata,omitempty"`

	_ struct{} `additionalProperties:"true"`
}

// describe says what may be posted, and what is answered.
func describe(schemas huma.Registry, op *huma.Operation) {
	one := schemas.Schema(reflect.TypeFor[event](), true, "Event")
	cloud := schemas.Schema(reflect.TypeFor[cloudEvent](), true, "CloudEvent")
	several := func(of *huma.Schema) *huma.Schema {
		most := maxEvents
		return &huma.Schema{Type: huma.TypeArray, Items: of, MaxItems: &most}
	}
	first, second := exampleEvent("run-81/step-3"), exampleEvent("run-81/step-4")
	op.RequestBody = &huma.RequestBody{
		Required:    true,
		Description: "At most 1,000 events and 1 MiB, in UTF-8. An event has at most 64 KiB.",
		Content: map[string]*huma.MediaType{
			"application/json": {
				Schema: &huma.Schema{OneOf: []*huma.Schema{one, several(one)}},
				Examples: map[string]*huma.Example{
					"one":     {Summary: "One event", Value: first},
					"several": {Summary: "Several", Value: []any{first, second}},
				},
			},
			"application/x-ndjson": {
				Schema:  &huma.Schema{Type: huma.TypeString, Description: "An event on each line; blank lines are passed over."},
				Example: inLines(first, second),
			},
			"application/cloudevents+json":       {Schema: cloud, Example: exampleCloudEvent()},
			"application/cloudevents-batch+json": {Schema: several(cloud), Example: []any{exampleCloudEvent()}},
		},
	}
	answer := op.Responses[strconv.Itoa(http.StatusAccepted)]
	answer.Description = "Every valid event is stored. Look at each result: what is invalid is not."
	answer.Content["application/json"].Schema = schemas.Schema(reflect.TypeFor[Answer](), true, "Answer")
}

// exampleEvent is the documentation's event, under a key.
func exampleEvent(key string) map[string]any {
	return map[string]any{"idempotency_key": key, "agent": "inbox", "action_type": "email_processed", "metadata": map[string]any{"model": "small"}}
}

func exampleCloudEvent() map[string]any {
	return map[string]any{"specversion": "1.0", "id": "run-81/step-3", "source": "/agents/inbox", "type": "inbox.email_processed", "data": map[string]any{"quantity": 1}}
}

func inLines(events ...any) string {
	var lines strings.Builder
	for _, e := range events {
		line, _ := json.Marshal(e) // maps of strings always encode
		lines.Write(append(line, '\n'))
	}
	return lines.String()
}

// exampleAnswer is the documentation's answer.
func exampleAnswer() Answer {
	key, other, seq := "run-81/step-3", "run-81/step-4", uint64(4711)
	reason, detail := odometer.InvalidField, "quantity is 5.0; allowed: a whole number from 1 to 1000000000, in digits only"
	return Answer{
		Results: []Result{
			{Index: 0, IdempotencyKey: &key, Status: Accepted, StreamSeq: &seq},
			{Index: 1, IdempotencyKey: &other, Status: Invalid, Reason: &reason, Detail: &detail},
		},
		Accepted: 1, Invalid: 1,
	}
}
