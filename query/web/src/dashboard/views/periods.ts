// A tenant's billing periods: the running one, and what was frozen of those before.

import type { Child } from "../dom.ts";
import { period, timeOr } from "../format.ts";
import { empty, panel } from "../panel.ts";
import { chip, meters, overageCost, planOf, usageTable } from "../parts.ts";
import { col, facts, paged } from "../table.ts";
import type { Period, Periods } from "../types.ts";
import type { Visit } from "../visit.ts";

const PATH = "/api/v1/periods";

export function periodsPanel(visit: Visit, tenantId: string | null): HTMLElement {
  const fetchPage = (cursor: string | null, signal: AbortSignal): Promise<Periods> =>
    visit.api.get<Periods>(PATH, { tenant_id: tenantId, limit: 12, cursor }, signal);
  return panel(visit, {
    title: "Running and past",
    lines: 6,
    note: "A closed period never changes: its limits, prices and amounts are frozen. What arrives late counts in the next one.",
    load: (signal) => fetchPage(null, signal),
    render: (first) => draw(visit, first, (cursor) => fetchPage(cursor, visit.signal)),
  }).element;
}

function draw(visit: Visit, first: Periods, fetchPage: (cursor: string) => Promise<Periods>): Child {
  if (first.periods.length === 0)
    return empty("No billing period yet. The first one begins with the subscription.");
  const { currency } = first;
  return paged<Period, Periods>(visit, {
    caption: "Billing periods, newest first",
    columns: [
      col("Period (UTC)", (p) => period(p.period_start, p.period_end)),
      col("State", standing),
      col("Plan", (p) => planOf(p)),
      col("Usage", (p) => meters(p), "wide"),
      col("Overage", (p) => overageCost(p.total_overage_cost_cents, currency), "number"),
    ],
    detail: (p) => detail(p, currency),
    first,
    fetchPage,
    rows: (page) => page.periods,
    word: "period",
  });
}

function standing(p: Period): Child {
  if (p.current) return chip("good", "Current");
  if (p.status === "open") return chip("warn", "Ended, closing soon");
  return p.settled_at ? chip("calm", "Settled") : chip("calm", "Closed");
}

const detail = (p: Period, currency: string): Child => [
  facts([
    ["From", p.period_start],
    ["Until", p.period_end],
    ["Closed", timeOr(p.closed_at, "Not yet")],
    ["Settled with Stripe", timeOr(p.settled_at, p.trial ? "A trial is never billed" : "Not yet")],
  ]),
  usageTable(p, currency),
];
