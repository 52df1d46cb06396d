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
//     transaction that records the action as begun.
//  2. Act.
//  3. Publish the stored event. When Publish returns nil, mark it published.
//     On any other error but a Rejection keep it, and publish it again later.
//  4. After a restart, publish every event that is not marked and whose action
//     took place. A repeat is counted once, for 90 days.
//
// An event that is made anew for a retry has another key, and is another event.
package ingest
