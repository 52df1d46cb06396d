// Package api is the door of the HTTP API: every request to it, whatever stage
// answers, goes through here and meets the same rules in the same order. A
// stage registers an operation ([Register]) and is handed the caller; who that
// is, and whether it may, was decided before.
//
// What it guarantees:
//
//   - No operation runs without a token that is good now (401), allows it
//     (403), and has requests left (429), judged in this order. Which algorithm
//     checks a token is pinned by the operator's settings, never by the token.
//   - A token of role tenant acts for its own tenant, an admin's for the one
//     that it names. The stage gets that tenant and no other.
//   - Nothing in a query is passed over: a parameter that the operation does not
//     know, or that is given twice, is a 400.
//   - Whatever is no answer is a problem document (RFC 9457) of a known type,
//     whose detail a person can act on and which tells nothing of the inside.
//   - Every request is one line in the log with tenant and token subject, and
//     one count in usage_api_requests_total. No query string, no header, no
//     token is logged.
//   - What is registered is documented: the OpenAPI document is made of the
//     same types that are read and written, with an example of each answer.
//
// In the order of a request's way:
//
//	api.go      the handler around everything: log, metrics, panics
//	cors.go     which other origins may read answers
//	door.go     huma's adapter: an operation behind its checks
//	admit.go    who asks, and for which tenant
//	parameters.go whether its query says what the operation will read
//	auth.go     what makes a token good; jwks.go where its keys come from
//	limit.go    requests per caller and minute, exactly
//	cursor.go   where a list goes on
//	gate.go     how many of a sort may be inside at once
//	route.go    what a stage says of an operation
//	problem.go  every status that is not an answer, in one table
//	complaint.go what huma says of input that does not fit, in plain words
//	json.go     how bodies are written and read
//	outage.go   which errors of the database mean that it is away
//	response.go answers are whole before their first byte is sent
//	openapi.go  the document; examples.go what its problems read like
package api
