// Package admin answers operators: how the whole installation stands, which
// tenant uses what, what was not counted and why, what the jobs and the audit
// say, what Stripe was told. It is behind GET and POST /api/v1/admin/….
//
// What it guarantees:
//
//   - It reads the books and changes none of them. What acts (a retry, a pause,
//     a finding that is resolved) is done by the stage whose business it is,
//     and is written down with who did it.
//   - Every list is bounded, and says what it leaves out: by a cursor, a total,
//     or a limit that the documentation names.
//   - What is not known is null, never 0: a partition that was never read, a
//     stream that this process has no connection to.
//   - No credential is read here, so none can be shown. What an agent sent is
//     shown as text only where it is harmless text.
//
// The stages meet in data: the tables are read with this package's own SQL, and
// what needs another stage's code comes in by [Options].
//
//	overview.go  everything at a glance; lag.go what of the stream is not read,
//	             totals.go the sums that would take long
//	tenants.go   which tenants, in which order; tenant.go what is said of each
//	alerts.go    what customers were told
//	letters.go   dead letters; retry.go judges them anew
//	jobs.go      the jobs, and pausing them
//	audits.go    the last audit
//	findings.go  what was found wrong, and resolving it
//	ledger.go    what Stripe was told
//	routes.go    all of it over HTTP
package admin
