// Package ingest owns the stream: its configuration, its subjects, the form of
// its messages, and the Publisher by which agents put events into it. Senders
// and readers share this package, so that what one side accepts is what the
// other side understands.
//
// # What it guarantees
//
//   - Published means stored: Publish returns an Ack only after the stream has
//     stored the message, and synced it where the server runs with
//     `sync_interval: always` (SyncAlways tells).
//   - The same bytes on the same subject are stored once within the stream's
//     duplicate window: the message id is a hash of both (MessageID), never the
//     key, so the window swallows repeats and nothing else. Outside the window
//     a repeat is stored again, and counted once by its key.
//   - The stream keeps what it took: no deletion, no purge, no dropping of old
//     messages when it is full. A full stream refuses, and the event stays with
//     its sender.
//   - Both sides judge by the same code: Validate is Decode and CheckAge.
//
// # For the author of an agent
//
// An action must be counted once, whatever crashes. That takes one habit:
// make the event, its idempotency key above all, and store it before you act;
// after that, only ever publish what you stored.
//
//  1. Choose the key, from the action where it has an identity of its own
//     (such as "email:" and the message's id), else at random. Write the event,
//     with its key and OccurredAt, where it survives a crash, best in the
//     transaction that records the action as begun. An Event that went through
//     encoding/json is still published as the same bytes.
//  2. Act.
//  3. Publish the stored event. When Publish returns nil, mark it published.
//     On any other error but a Rejection keep it, and publish it again later.
//  4. After a restart, publish every event that is not marked and whose action
//     took place. A repeat is counted once, for 90 days.
//
// An event that is made anew for a retry has another key, and is another event.
// The example Journal is all of this with a file.
//
// Connect with nats.MaxReconnects(-1), so that a restart of the server is not
// the end of the agent, and with credentials of the agent's tenant. Make one
// Publisher for the connection, and give each call a context with a deadline.
//
// # What an error asks for
//
//   - An *odometer.Rejection: the event is not valid and was not sent. No repeat
//     will help; mend the agent. Validate tells the same in the agent's tests.
//   - ErrStreamFull: back-pressure. Keep the event, begin no new work, and
//     publish it again after a pause.
//   - ErrNoStream, ErrNotPermitted: the set-up is wrong. Keep the event and tell
//     an operator.
//   - Any other: the outcome is not known. Keep the event and publish it again.
//
// Corrections are no business of agents: a wrong event stays, since the stream
// is the evidence, and an operator sets it right with `odometer adjust`. A
// Publisher can send them (Event.Kind); the credentials of an agent should not
// allow it.
//
// Agents in other languages do the same with any NATS client, or over HTTP:
// deploy/examples has Python, TypeScript and curl.
package ingest
