// Package query answers customers: how much of what they pay for is used, as
// of when, and what lies beyond it costs.
//
// An answer is one statement, so that the counts, the plan they are measured
// against and the time up to which they are complete (as_of) come from one
// snapshot of the database and one round trip. A number that is not known is
// never a zero: a tenant whose part of the stream was never read to its end
// gets no answer ([ErrNotRead]) instead of an empty one.
//
//	usage.go    the statement and what an answer is made of
//	answer.go   the answer's shape in JSON
//	handler.go  GET /api/v1/usage: the order of the checks, the log line
//	access.go   who asks, and for which tenant
//	auth.go     what makes a token good; jwks.go where its keys come from
//	limit.go    requests per tenant and minute, exactly
//	problem.go  every status that is not an answer, in one table
//	outage.go   which errors of the database mean that it is away
package query
