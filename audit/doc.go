// Package audit proves that the books agree, and repairs counters where that is
// defined. Five books say the same thing in different words: what agents said
// (the stream), what was stored (events), what is counted (counters), what was
// told (the ledger), and what Stripe has (its summaries). They are compared
// pairwise:
//
//	stream and events      each message that was read is an event with the same
//	                       content, a repeat of one, or a dead letter; no event
//	                       of that span is without its message     (stream.go, match.go, books.go, back.go)
//	events and counters    each counter is the sum of its events and of what
//	                       retention removed, in one snapshot; each event is in
//	                       the period it belongs to                (counters.go, place.go)
//	counters and ledger    what was told of a settled period is its overage; each
//	                       link goes on where the one before ended (ledger.go, chain.go, mirror.go)
//	ledger and Stripe      by customer and meter                   (stripe.go)
//
// # Why there is no false alarm while events are counted
//
// The comparison begins with the positions, read in one snapshot, and asks of
// each partition only about messages up to its position. What became of those
// was decided before: their rows are in every later snapshot too, so each part
// of the stream is compared in a short transaction of its own and no long one
// keeps Postgres from tidying up. The sums are taken by one statement, and a
// statement sees one snapshot. When the stream's history was cut meanwhile (the
// epochs changed), nothing is concluded: it begins again.
//
// # What cannot be known
//
// Messages that have aged out of the stream leave their events unprovable; an
// event of a tail that the stream lost has no message and never will. Both are
// said as unknown, and are no difference. So is what Stripe still adds up.
//
// # Why it is fast and its memory flat
//
// There is no index by sequence, for it would slow the writers. Instead one
// pass over the table notes, for each stretch of blocks, which sequences lie in
// it. Messages are compared in chunks, and a chunk reads just the stretches
// that hold its sequences. Where retention has mixed old and new rows in the
// same blocks that would read too much, and the chunk asks by key. What is held
// in memory is a few chunks and one line per stretch.
//
// # What is repaired
//
// Reconcile sets counters from events, and only where stream and events agree:
// otherwise it would make a loss official. A closed period's truth is its
// frozen total. Everything else is said with the command that repairs it, or
// that no repair is defined.
package audit
