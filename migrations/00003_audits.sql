-- +goose Up
-- What the books looked like when they were last audited, for people who were
-- not there: differences, and "different" 0, which is the point of looking.
-- The newest audits are kept.
create table audits (
    audit_id  bigint generated always as identity primary key,
    at        timestamptz not null,
    by        text not null,
    different bigint not null check (different >= 0),
    report    jsonb not null
);

-- Up to when what retention removed had been stored: a history before that is
-- not known whole.
alter table usage_removed add column stored_before timestamptz;

-- +goose Down
alter table usage_removed drop column stored_before;
drop table audits;
