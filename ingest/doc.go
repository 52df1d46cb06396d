// Package ingest defines the stream: its configuration, its subjects and the
// form of its messages. It has the strict decoder and the one reader of the
// stream. Agents publish with package ingest/publisher, or over HTTP through
// ingest/httpingest.
//
// # What it guarantees
//
//   - The stream keeps what it stored: no deletion, no purge, no dropping of old
//     messages when it is full. A full stream refuses, and the event stays with
//     its sender.
//   - Foreign bytes (HTTP, files) are validated before they are sent by the same
//     code that decodes them later: Validate is Decode and CheckAge.
//   - The package publisher, which imports nothing of ours, has rules of its own
//     for a typed event. A property test here holds that what it accepts, Decode
//     accepts, and that both give the same reason.
//   - StreamReader returns every message of its range in order, or an error.
package ingest
