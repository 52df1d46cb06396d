// Package query answers customers: how much of what they pay for is used, as
// of when, and what lies beyond it costs.
//
// An answer is one statement, or several in one snapshot of the database, so
// that the counts, the plan they are measured against and the time up to which
// they are complete (as_of) belong together. A number that is not known is
// never a zero: a tenant whose part of the stream was never read to its end
// gets no answer ([ErrNotRead]) instead of an empty one, and what retention has
// removed is left out of a history and named by complete_from.
//
// Events have no index by time, which would cost a quarter of the rate at which
// they are counted. Lists and histories of a tenant are found by its part of
// the primary key and by when events were stored (a BRIN index): events_page.go
// has the figures.
//
//	usage.go    the current period: the statement that every read begins with
//	answer.go   its shape in JSON
//	etag.go     its name, for those who have it already
//	snapshot.go what the reads of several statements have in common
//	history.go  usage by time; windows.go where hours, days and months begin
//	events.go   the events themselves; events_page.go a page of them,
//	            events_csv.go all of them as a file
//	forecast.go what the current period comes to
//	periods.go  what each period came to
//	alerts.go   what a customer should know
//	asked.go    what requests say
//	routes.go   GET /api/v1/usage, and what each refusal is to a client;
//	            routes_*.go the other reads
//	schema.go   the shapes as the documentation shows them
//
// Who may ask, and how often, was decided by package api before.
package query
