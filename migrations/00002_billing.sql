-- +goose Up
-- Everything between a right counter and a right invoice.

-- What Stripe was told ------------------------------------------------------

-- The ledger's own name, and how many passes have sent something. The number
-- is mirrored outside of Postgres: a restored backup is behind its mirror.
-- sink, account and livemode are those of the last pass.
create table ledger (
    only_row   boolean primary key default true check (only_row),
    ledger_id  uuid not null default gen_random_uuid(),
    generation bigint not null default 0,
    sink       text,
    account    text,
    livemode   boolean
);

insert into ledger default values;

-- A row is a link of the chain of totals that Stripe was told for one tenant,
-- agent and period. What is sent is frozen in it before the first call. The
-- revision numbers the links of a period and is never used again.
--
-- origin: "told" was sent by us; "found" is what Stripe's own summary had
-- beyond the ledger; "invoiced" brings the chain to what the final invoice
-- says, and is no usage of Stripe's meter.
create table overage_reports (
    tenant_id           uuid not null,
    agent               text not null,
    period_start        timestamptz not null,
    billed_period_start timestamptz not null,
    revision            integer not null,
    from_total          bigint not null,
    to_total            bigint not null,
    value               bigint not null,
    origin              text not null default 'told' check (origin in ('told', 'found', 'invoiced')),
    sink                text not null check (sink in ('meter_events', 'usage_records')),
    account             text not null,
    livemode            boolean not null,
    stripe_customer     text not null,
    meter               text not null,
    reported_at         timestamptz not null,
    identifier          text not null unique check (length(identifier) <= 100),
    generation          bigint not null,
    state               text not null check (state in (
        'planned', 'sending', 'accepted', 'verified', 'unknown', 'rejected', 'unbillable'
    )),
    attempts            integer not null default 0,
    first_attempt_at    timestamptz,
    last_attempt_at     timestamptz,
    retry_at            timestamptz,
    absent_since        timestamptz,
    decided_at          timestamptz,
    detail              text,
    created_at          timestamptz not null default now(),
    primary key (tenant_id, agent, period_start, revision),
    check (from_total <> to_total)
);

-- Stripe takes one call at a time for a customer and meter, and its summary
-- can decide about one unknown only.
create unique index overage_reports_undecided
    on overage_reports (account, livemode, stripe_customer, meter)
    where state in ('planned', 'sending', 'unknown');

-- What a meter of a customer was told, by time: summaries are compared by it.
create index overage_reports_meter
    on overage_reports (stripe_customer, meter, reported_at);

-- What the verification still has to look at.
create index overage_reports_unverified
    on overage_reports (decided_at)
    where state = 'accepted';

-- How many of the last minutes' calls failed.
create index overage_reports_attempted
    on overage_reports (last_attempt_at);

-- The invoice of a period that has ended, as far as it is known. looked_at is
-- when Stripe was last asked, look_at when to ask again; fixed_at says that no
-- more usage of the period can reach it and the chain was brought to its
-- quantities.
create table period_invoices (
    tenant_id      uuid not null,
    period_start   timestamptz not null,
    stripe_invoice text,
    status         text,
    looked_at      timestamptz not null,
    look_at        timestamptz not null,
    fixed_at       timestamptz,
    primary key (tenant_id, period_start),
    foreign key (tenant_id, period_start) references billing_periods on delete cascade
);

-- Whom a period is billed to, once it has ended: a customer that is mapped later
-- is not billed for it.
alter table billing_periods add column stripe_customer text;

-- A pass walks the tenants that have something left to settle.
create index billing_periods_unsettled
    on billing_periods (tenant_id, period_start)
    where settled_at is null;

-- What waits to be closed.
create index billing_periods_unclosed
    on billing_periods (period_end)
    where status = 'open' and frozen_at is not null;

-- Stripe's subscriptions ----------------------------------------------------

-- Who a hook, or a line of Stripe's list, is about.
create index subscriptions_stripe_customer on subscriptions (stripe_customer) where stripe_customer is not null;
create index subscriptions_stripe_subscription on subscriptions (stripe_subscription) where stripe_subscription is not null;

-- Each hook once. Its content is a hint: only the ids are kept, the object is
-- fetched again. One that fails waits until retry_at, longer each time; outcome
-- is then why it failed.
create table stripe_hooks (
    hook_id     text primary key,
    type        text not null,
    object_id   text,
    livemode    boolean not null,
    received_at timestamptz not null default now(),
    attempts    integer not null default 0,
    retry_at    timestamptz,
    done_at     timestamptz,
    outcome     text
);

-- What waits, by when it is due.
create index stripe_hooks_waiting
    on stripe_hooks (coalesce(retry_at, received_at), hook_id)
    where done_at is null;

-- Alerts and findings -------------------------------------------------------

-- What a customer was told about a threshold, once per period, threshold and
-- limit. A null limit never has an alert.
create table usage_alerts (
    tenant_id    uuid not null,
    agent        text not null,
    period_start timestamptz not null,
    threshold    integer not null,
    "limit"      bigint not null,
    level        text not null check (level in ('warning', 'error')),
    count        bigint not null,
    raised_at    timestamptz not null default now(),
    delivered_at timestamptz,
    attempts     integer not null default 0,
    retry_at     timestamptz,
    primary key (tenant_id, agent, period_start, threshold, "limit")
);

-- What people are still to be told.
create index usage_alerts_undelivered on usage_alerts (raised_at) where delivered_at is null;

-- What is wrong, and what was done about it, for operators. While a finding is
-- open it stands once; subject tells it from others of its kind.
create table audit_findings (
    finding_id   bigint generated always as identity primary key,
    kind         text not null,
    subject      text not null,
    tenant_id    uuid,
    agent        text,
    period_start timestamptz,
    detail       text not null,
    before       bigint,
    after        bigint,
    found_at     timestamptz not null default now(),
    found_by     text not null,
    resolved_at  timestamptz,
    resolved_by  text,
    resolution   text,
    notified_at  timestamptz,
    attempts     integer not null default 0,
    retry_at     timestamptz
);

create index audit_findings_unnotified on audit_findings (found_at) where notified_at is null;

create unique index audit_findings_open on audit_findings (kind, subject) where resolved_at is null;

-- Proof ---------------------------------------------------------------------

-- What a batch added to the counters: their growth is checked by it all the
-- time.
alter table batches add column units bigint;

-- Jobs ----------------------------------------------------------------------

create table jobs (
    job             text primary key,
    known_since     timestamptz not null default now(),
    last_started_at timestamptz,
    last_success_at timestamptz,
    last_error      text
);

-- What people did to jobs, and when.
create table job_acts (
    act_id bigint generated always as identity primary key,
    job    text not null,
    act    text not null check (act in ('run', 'pause', 'resume')),
    who    text not null,
    at     timestamptz not null default now(),
    result text
);

-- Dead letters and people -----------------------------------------------------

-- What became of a dead letter: when, by whom and why.
--
-- retry_closed_until is the end of the tenant's last closed period at the
-- retry. The position of the retry alone does not tell: while nothing arrives,
-- a close before and a close after the retry have the same one.
--
-- judged_by names the terms under which the letter was last judged. While they
-- are in force there is no sense in judging it again.
alter table dead_letters
    add column retry_closed_until timestamptz,
    add column decided_at timestamptz,
    add column decided_by text,
    add column why text,
    add column judged_by text;

-- In which batch a message was read.
create index batches_spans on batches (partition, stream_epoch, to_seq);

create index dead_letters_open on dead_letters (reason, tenant_id, judged_by) where state = 'open';
create index dead_letters_retried on dead_letters (retry_epoch, retry_seq) where state = 'retried';

-- +goose Down
alter table batches drop column units;
drop index dead_letters_open, dead_letters_retried, batches_spans;
alter table dead_letters
    drop column retry_closed_until, drop column decided_at, drop column decided_by, drop column why, drop column judged_by;
alter table billing_periods drop column stripe_customer;
drop table job_acts, jobs, audit_findings, usage_alerts, stripe_hooks, period_invoices, overage_reports, ledger;
drop index subscriptions_stripe_customer, subscriptions_stripe_subscription, billing_periods_unsettled, billing_periods_unclosed;
