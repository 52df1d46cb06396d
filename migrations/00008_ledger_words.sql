-- +goose Up
-- The columns of period_invoices say what they are, and an entry of the ledger
-- that we sent is "reported".

alter table period_invoices rename column looked_at to checked_at;
alter table period_invoices rename column look_at to next_check_at;
alter table period_invoices rename column fixed_at to concluded_at;

alter table overage_reports drop constraint overage_reports_origin_check;
update overage_reports set origin = 'reported' where origin = 'told';
alter table overage_reports alter column origin set default 'reported';
alter table overage_reports
    add constraint overage_reports_origin_check check (origin in ('reported', 'found', 'invoiced'));

-- +goose Down
alter table overage_reports drop constraint overage_reports_origin_check;
update overage_reports set origin = 'told' where origin = 'reported';
alter table overage_reports alter column origin set default 'told';
alter table overage_reports
    add constraint overage_reports_origin_check check (origin in ('told', 'found', 'invoiced'));

alter table period_invoices rename column concluded_at to fixed_at;
alter table period_invoices rename column next_check_at to look_at;
alter table period_invoices rename column checked_at to looked_at;
