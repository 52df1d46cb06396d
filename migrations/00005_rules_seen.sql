-- +goose Up
-- The rules that were in force when an open dead letter was last classified:
-- while they are the same, a retry would lead to the same result.
alter table dead_letters rename column judged_by to rules_seen;

-- +goose Down
alter table dead_letters rename column rules_seen to judged_by;
