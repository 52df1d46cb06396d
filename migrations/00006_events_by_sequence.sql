-- +goose NO TRANSACTION

-- +goose Up
-- The audit reads events by ranges of sequences. A block range index is enough,
-- because events lie in the table about in the order of the stream, and it costs
-- the writers next to nothing. It is built while events are being counted. A
-- try that was killed leaves an invalid index behind, so that goes first.
drop index concurrently if exists usage_events_stream_seq;
create index concurrently usage_events_stream_seq on usage_events
    using brin (stream_seq) with (pages_per_range = 64, autosummarize = on);

-- +goose Down
-- The index stays, and goes with its table: outside of a transaction, a kill
-- between dropping it and recording that would leave a database which counts as
-- migrated and lacks it.
