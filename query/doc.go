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
//	etag.go     its name, for those who have it already
//	routes.go   GET /api/v1/usage, and what each refusal is to a client
//	schema.go   the shapes as the documentation shows them
//
// Who may ask, and how often, was decided by package api before.
package query
