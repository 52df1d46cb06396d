// Package aggregator brings the stream into the books: it reads every message
// once, judges it, and counts it in Postgres.
//
// # Why each event counts exactly once
//
// The reader's place in the stream is a row in Postgres, one per partition. A
// batch is one transaction: it advances that row from where this reader began,
// inserts the events whose keys are new, adds what was really inserted to the
// counters, and books what became of every message. Place, events and counters
// therefore move together or not at all. The stream keeps no memory of us (no
// durable consumer, no acknowledgements, no redelivery), so there is nothing
// that could disagree with the row.
//
// What each crash costs:
//
//	after the fetch, before the commit   nothing was stored; the next reader fetches it again
//	during the commit                    Postgres decides; whoever reads the position next knows
//	commit done, answer lost             the position tells that it is done
//	after the commit                     the next reader begins behind it
//
// Two readers of one partition cannot both count: both advance the row from
// the same place, one of them succeeds, the other finds it moved, drops what it
// holds and begins again. The advisory lock only makes that rare.
//
// # What a message becomes
//
// An event, a duplicate of one, or a dead letter with a reason; `batches`
// accounts for each. The judgement depends on the message, its position, and
// the terms in force (see package billing), never on this process's clock. A
// batch that was judged by terms which have changed since does not commit; it
// is judged again.
//
// # How it flows
//
//	session    holds the partitions' locks, finds the place to read from       (lease.go, attach.go)
//	reader     one consumer for all partitions, deals messages to workers      (reader.go)
//	collector  a worker's first half: decodes, gathers the next batch          (collect.go)
//	committer  its second half: judges, counts, commits                        (judge.go, count.go)
//
// Beside the readers, a retry judges dead letters anew (retry.go) and a replay
// restores what is missing (replay.go), by the same judgement and under the
// same locks. Neither moves a position or books a batch: in `batches` a message
// stays what it was when it was read, so the dead of all batches are the rows
// of dead_letters in whatever state, and an event that came from one lies at
// its position.
//
// While a batch commits, the next one is fetched and decoded. Each channel is
// bounded, so a slow database slows the reading and memory stays flat.
package aggregator
