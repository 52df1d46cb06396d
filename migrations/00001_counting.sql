-- +goose Up
-- Everything that counting needs. Tables are named and shaped by the contract;
-- columns beyond it are for the program alone.

-- A period must not overlap another of its tenant: an exclusion constraint
-- over a uuid and a range needs btree_gist.
create extension if not exists btree_gist;

-- The catalogue in force --------------------------------------------------

create table catalogue (
    only_row   boolean primary key default true check (only_row),
    currency   text not null,
    applied_at timestamptz not null
);

create table agents (
    agent      text primary key,
    position   integer not null,
    noun       text not null,
    limit_key  text not null unique,
    unit_price numeric not null check (unit_price >= 0),
    meter      text not null,
    lookup_key text not null
);

create table actions (
    agent       text not null references agents on delete cascade,
    action_type text not null,
    position    integer not null,
    primary key (agent, action_type)
);

create table plans (
    plan_id  text primary key,
    position integer not null,
    name     text not null,
    price    numeric not null check (price >= 0)
);

-- An agent that a plan does not include has no row here; "limit" null is unlimited.
create table allowances (
    plan_id text not null references plans on delete cascade,
    agent   text not null references agents on delete cascade,
    "limit" bigint check ("limit" >= 0),
    primary key (plan_id, agent)
);

-- Tenants -----------------------------------------------------------------

create table subscriptions (
    tenant_id           uuid primary key,
    plan_id             text references plans,
    status              text not null check (status in ('trial', 'active', 'past_due', 'canceled', 'expired')),
    period_interval     text not null check (period_interval in ('day', 'week', 'month', 'year', 'none')),
    anchor              timestamptz not null,
    trial_ends_at       timestamptz,
    stripe_customer     text,
    stripe_subscription text,
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now()
);

create table billing_periods (
    tenant_id    uuid not null references subscriptions,
    period_start timestamptz not null,
    period_end   timestamptz not null,
    plan_id      text,
    status       text not null default 'open' check (status in ('open', 'closed')),
    trial        boolean not null default false,
    frozen_at    timestamptz,
    closed_epoch integer,
    closed_seq   bigint,
    closed_at    timestamptz,
    settled_at   timestamptz,
    primary key (tenant_id, period_start),
    check (period_start < period_end),
    check ((status = 'closed') = (closed_seq is not null and closed_epoch is not null and closed_at is not null)),
    exclude using gist (tenant_id with =, tstzrange(period_start, period_end) with &&)
);

-- What rolls over next: the running period of each tenant.
create index billing_periods_unfrozen on billing_periods (period_end) where frozen_at is null;

-- Limits and prices of a period that has ended, as they stood at its end.
create table period_allowances (
    tenant_id    uuid not null,
    period_start timestamptz not null,
    agent        text not null,
    "limit"      bigint,
    unit_price   numeric not null,
    primary key (tenant_id, period_start, agent),
    foreign key (tenant_id, period_start) references billing_periods on delete cascade
);

create table period_totals (
    tenant_id    uuid not null,
    agent        text not null,
    period_start timestamptz not null,
    count        bigint not null check (count >= 0),
    "limit"      bigint,
    unit_price   numeric not null,
    overage      bigint not null check (overage >= 0),
    primary key (tenant_id, period_start, agent),
    foreign key (tenant_id, period_start) references billing_periods
);

-- The stream, as far as it was read ---------------------------------------

create table stream_epochs (
    epoch          integer primary key,
    first_seq      bigint not null,
    stream_created timestamptz not null,
    partitions     integer not null,
    found_at       timestamptz not null default now()
);

-- One row per partition. "terms" is raised by every change of the catalogue,
-- or of a subscription or period of the partition, in the same transaction: a
-- batch that was judged by older terms does not commit.
create table stream_positions (
    partition      integer primary key,
    stream_epoch   integer not null references stream_epochs,
    seq            bigint not null,
    stored_at      timestamptz,
    complete_until timestamptz,
    terms          bigint not null default 0
) with (fillfactor = 50);

create table batches (
    batch_id       bigint generated always as identity primary key,
    partition      integer not null,
    stream_epoch   integer not null,
    from_seq       bigint not null,
    to_seq         bigint not null,
    last_stored_at timestamptz,
    messages       integer not null,
    events         integer not null,
    duplicates     integer not null,
    dead           integer not null,
    committed_at   timestamptz not null default now(),
    check (messages = events + duplicates + dead)
);

-- The books ---------------------------------------------------------------

-- The primary key is the only unique index and the promise that an event
-- counts once. BRIN serves what walks by stored time.
create table usage_events (
    tenant_id       uuid not null,
    event_id        uuid not null,
    agent           text not null,
    kind            text not null,
    action_type     text not null,
    resource_id     text,
    quantity        bigint not null,
    idempotency_key text not null,
    metadata        jsonb,
    occurred_at     timestamptz not null,
    recorded_at     timestamptz not null,
    period_start    timestamptz not null,
    stream_epoch    integer not null,
    stream_seq      bigint not null,
    primary key (tenant_id, event_id)
);

create index usage_events_recorded_at on usage_events using brin (recorded_at);

create table usage_counters (
    tenant_id     uuid not null,
    agent         text not null,
    period_start  timestamptz not null,
    period_end    timestamptz not null,
    count         bigint not null constraint usage_counters_not_negative check (count >= 0),
    last_event_at timestamptz,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    primary key (tenant_id, agent, period_start)
) with (fillfactor = 60);

create table usage_removed (
    tenant_id    uuid not null,
    agent        text not null,
    period_start timestamptz not null,
    quantity     bigint not null,
    events       bigint not null,
    updated_at   timestamptz not null default now(),
    primary key (tenant_id, agent, period_start)
);

create table dead_letters (
    stream_epoch integer not null,
    stream_seq   bigint not null,
    subject      text not null,
    tenant_id    uuid,
    agent        text,
    reason       text not null,
    detail       text not null,
    payload      bytea not null,
    headers      jsonb not null,
    received_at  timestamptz not null,
    state        text not null default 'open' check (state in ('open', 'retried', 'duplicate', 'discarded')),
    retry_epoch  integer,
    retry_seq    bigint,
    primary key (stream_epoch, stream_seq)
);

-- +goose Down
drop table dead_letters, usage_removed, usage_counters, usage_events, batches, stream_positions, stream_epochs,
    period_totals, period_allowances, billing_periods, subscriptions, allowances, plans, actions, agents, catalogue;
