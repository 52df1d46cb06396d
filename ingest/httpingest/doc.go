// Package httpingest takes events over HTTP, for agents that speak no NATS:
// POST /api/v1/events. It judges each event as package ingest does, publishes
// the valid ones in their order, and answers what became of each.
//
// What it guarantees:
//
//   - Accepted means stored: 202 is answered only after the stream holds every
//     valid event of the request. Otherwise the answer is 503, and the client
//     repeats the whole request; what was stored already is counted once.
//   - What is sent are the event's own bytes, for the token's tenant only.
//   - One event that is invalid keeps no other from being stored. A body that
//     is not what its Content-Type says is refused as a whole, and nothing of
//     it is stored.
//   - Nobody does harm by what he sends, or by not sending: a body is read in
//     a bounded time and up to a bounded size, its memory grows with what has
//     arrived, the bodies held at once are bounded in all and for each tenant,
//     and nothing here recurses into what was sent.
//
// In the order of a request's way:
//
//	route.go      the operation and its place in the OpenAPI document
//	media.go      what the Content-Type says of the body
//	body.go       the body, read within its bounds
//	split.go      where each event begins and ends
//	wellformed.go what is JSON, although no event
//	judge.go      what becomes of each event
//	answer.go     the answer's JSON
package httpingest
