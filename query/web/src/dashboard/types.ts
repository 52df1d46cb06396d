// What the HTTP API answers, as far as the dashboard reads it. null is "there is
// none" or "not known"; it is never drawn as a zero.

export type Instant = string; // RFC 3339, UTC

export interface Plan {
  id: string;
  name: string;
}

/** What a period's usage is judged by. */
export interface Terms {
  plan: Plan | null;
  trial: boolean;
}

/** One agent's count in a period, and what it means in money. */
export interface AgentUsage {
  count: number;
  limit: number | null; // 0: not included; null: unlimited
  percentage: number;
  overage: number;
  overage_cost_cents: number;
  unit_price?: string; // only where a period tells it
}

export interface History {
  from: Instant;
  to: Instant;
  window: HistoryWindow;
  timezone: string;
  group_by: string[];
  as_of: Instant;
  complete_from: Instant | null;
  buckets: Bucket[];
}

export type HistoryWindow = "hour" | "day" | "month";

export interface Bucket {
  start: Instant;
  end: Instant;
  quantity: number;
  events: number;
  groups: { agent?: string; action_type?: string; quantity: number; events: number }[];
}

export interface Events {
  from: Instant;
  to: Instant;
  as_of: Instant;
  complete_from: Instant | null;
  events: UsageEvent[];
  next_cursor: string | null;
}

export interface UsageEvent {
  event_id: string;
  agent: string;
  kind: "usage" | "adjustment";
  action_type: string;
  resource_id: string | null;
  quantity: number;
  idempotency_key: string;
  metadata: Record<string, unknown> | null;
  occurred_at: Instant;
  recorded_at: Instant;
  period_start: Instant;
  late: boolean;
}

interface Projected {
  period_start: Instant;
  period_end: Instant;
  as_of: Instant;
  currency: string;
  usage: Record<string, AgentForecast>;
  projected_overage_cost_cents: number;
}

/** While it is too early to tell, all that is projected is null, also of each agent. */
export type Forecast = Projected | TooEarly;

interface TooEarly extends Omit<Projected, "usage" | "projected_overage_cost_cents"> {
  projected_overage_cost_cents: null;
}

export interface AgentForecast {
  count: number;
  limit: number | null;
  per_day: number;
  projected_count: number;
  projected_overage: number;
  projected_overage_cost_cents: number;
  days_until_limit: number | null;
  limit_reached_at: Instant | null;
}

export interface Periods {
  as_of: Instant;
  currency: string;
  periods: Period[];
  next_cursor: string | null;
}

export interface Period extends Terms {
  period_start: Instant;
  period_end: Instant;
  status: "open" | "closed";
  current: boolean;
  closed_at: Instant | null;
  settled_at: Instant | null;
  usage: Record<string, AgentUsage>;
  total_overage_cost_cents: number;
}

export interface TenantAlerts {
  as_of: Instant;
  raised: RaisedAlert[];
}

export interface RaisedAlert {
  tenant_id?: string; // only in the operator's list
  agent: string;
  level: "warning" | "error";
  threshold: number;
  limit: number;
  count: number;
  period_start: Instant;
  raised_at: Instant;
  delivered_at: Instant | null;
  attempts?: number;
}

export interface Overview {
  at: Instant;
  as_of: Instant | null;
  freshness_seconds: number | null;
  lag_messages: number | null;
  events_per_second: number;
  partitions: { partition: number; seq: number; as_of: Instant | null; freshness_seconds: number | null }[];
  stream: { epoch: number; last_seq: number | null };
  totals: { messages: number; events: number; duplicates: number; dead_letters: number } | null; // null while an old installation adds up
  open_dead_letters: number;
  open_findings: number;
  undecided_links: number;
  tenants: Record<string, number>; // by status
  overage_cost_cents: number;
  currency: string;
}

export interface Tenants {
  as_of: Instant | null;
  tenants: Tenant[];
  total: number;
  next_cursor: string | null;
}

export interface Tenant extends Terms {
  tenant_id: string;
  status: string;
  period_start: Instant | null;
  period_end: Instant | null;
  usage: Record<string, AgentUsage>;
  total_count: number;
  total_overage_cost_cents: number;
  stripe_customer: string | null;
  open_dead_letters: number;
}

export interface TenantDetail {
  tenant: Tenant;
  subscription: Subscription;
  as_of: Instant | null;
}

export interface Subscription {
  status: string;
  plan_id: string | null;
  interval: string | null;
  anchor: Instant | null;
  trial_ends_at: Instant | null;
  stripe_customer: string | null;
  stripe_subscription: string | null;
  created_at: Instant;
  updated_at: Instant;
}

export interface DeadLetters {
  total: number;
  groups: DeadLetterGroup[];
  letters: DeadLetter[];
  next_cursor: string | null;
}

export interface DeadLetterGroup {
  reason: string;
  tenant_id: string | null;
  state: string;
  count: number;
  oldest: Instant;
  newest: Instant;
}

export interface DeadLetter {
  id: string;
  subject: string;
  tenant_id: string | null;
  agent: string | null;
  reason: string;
  detail: string;
  state: string;
  received_at: Instant;
  payload: string | null; // null when the bytes are not text
  payload_base64: string;
  payload_bytes: number;
  headers: Record<string, string[]>;
  truncated: boolean;
  decided_at: Instant | null;
  decided_by: string | null;
  why: string | null;
}

export interface Retried {
  counts: Record<string, number>; // by state
  letters: { id: string; state: string; reason: string; detail: string; already: boolean }[];
  next_cursor: string | null;
}

export interface Job {
  name: string;
  due_at: Instant | null;
  last_started_at: Instant | null;
  last_success_at: Instant | null;
  last_error: string | null;
  paused: boolean;
  last_act: { act: string; who: string; at: Instant; result: string | null } | null;
}

export interface Audit {
  at: Instant;
  by: string;
  different: number;
  report: AuditReport;
}

export interface AuditReport {
  comparisons: Comparison[];
  stream: {
    first_seq: number;
    through_seq: number;
    messages: number;
    events: number;
    duplicates: number;
    dead_letters: number;
    waiting: number;
  };
  open_dead_letters: number;
  differences: Difference[] | null;
  notes: string[] | null;
}

export interface Comparison {
  name: string;
  of: string;
  compared: number;
  equal: number;
  different: number;
  unsettled: number;
  unknown: number;
}

export interface Difference {
  comparison: string;
  kind: string;
  tenant_id: string | null;
  agent?: string;
  period_start: Instant | null;
  where?: string;
  expected: string;
  found: string;
  cause: string;
  repair: string;
}

export interface Finding {
  finding_id: number | string;
  kind: string;
  subject: string;
  tenant_id: string | null;
  agent: string | null;
  period_start: Instant | null;
  detail: string;
  before: number | null;
  after: number | null;
  found_at: Instant;
  found_by: string;
  resolved_at: Instant | null;
  resolved_by: string | null;
  resolution: string | null;
}

export interface Ledger {
  totals: { state: string; links: number; units: number }[];
  links: Link[];
  next_cursor: string | null;
}

/** One entry of the overage ledger. */
export interface Link {
  tenant_id: string;
  agent: string;
  period_start: Instant;
  billed_period_start: Instant;
  revision: number;
  from_total: number;
  to_total: number;
  value: number;
  origin: "reported" | "found" | "invoiced";
  sink: string;
  livemode: boolean;
  stripe_customer: string | null;
  meter: string;
  reported_at: Instant;
  identifier: string;
  state: string;
  attempts: number;
  first_attempt_at: Instant | null;
  decided_at: Instant | null;
  detail: string | null;
}
