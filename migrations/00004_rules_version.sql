-- +goose Up
-- The number that every change of the catalogue, or of a subscription or
-- period of the partition, raises is a version, so it is called one.
alter table stream_positions rename column terms to rules_version;

-- +goose Down
alter table stream_positions rename column rules_version to terms;
