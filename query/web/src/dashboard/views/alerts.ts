// Alerts that were raised: for one tenant, or for all of them.

import { h, type Child } from "../dom.ts";
import { noun, percent, periodStart, time, timeOr } from "../format.ts";
import { empty, panel } from "../panel.ts";
import { chip, tenant, title, usageOf } from "../parts.ts";
import { col, table, type Column } from "../table.ts";
import type { RaisedAlert, TenantAlerts } from "../types.ts";
import type { Visit } from "../visit.ts";

/** alertsPanel lists the alerts of one tenant. */
export function alertsPanel(visit: Visit, tenantId: string | null): HTMLElement {
  return panel(visit, {
    title: "Alerts raised",
    lines: 3,
    every: 30_000,
    besideWidget: tenantId === null,
    load: (signal) => visit.api.get<TenantAlerts>("/api/v1/alerts", { tenant_id: tenantId }, signal),
    render: ({ raised }) => list(raised, tenantId ? OPERATORS : CUSTOMERS),
  }).element;
}

/** alertsPage is the operator's: all tenants, newest first. */
export function alertsPage(visit: Visit): Child {
  return [
    title("Alerts"),
    allAlerts(visit, { name: "Raised, newest first", limit: 100 }, OPERATORS),
  ];
}

/** latestAlerts are the newest in short. */
export function latestAlerts(visit: Visit): HTMLElement {
  return allAlerts(visit, { name: "Latest alerts", limit: 5, every: 15_000 }, [AGENT, ALERT, RAISED]);
}

function allAlerts(
  visit: Visit,
  o: { name: string; limit: number; every?: number },
  columns: Column<RaisedAlert>[],
): HTMLElement {
  return panel(visit, {
    ...o,
    title: o.name,
    lines: Math.min(o.limit, 8),
    load: (signal) =>
      visit.api.get<{ alerts: RaisedAlert[] }>("/api/v1/admin/alerts", { limit: o.limit }, signal),
    render: ({ alerts }) =>
      list(alerts, [col("Tenant", (a) => tenant(visit, a.tenant_id ?? null)), ...columns]),
  }).element;
}

function list(alerts: RaisedAlert[], columns: Column<RaisedAlert>[]): Child {
  if (alerts.length === 0)
    return empty("No alert yet. One is raised when an agent reaches 80 % and 100 % of its limit.");
  return table({ caption: "Alerts, newest first", columns }, alerts).element;
}

const AGENT: Column<RaisedAlert> = col("Agent", (a) => a.agent);

const ALERT: Column<RaisedAlert> = col("Alert", (a) =>
  h("span", null, chip(a.level === "error" ? "bad" : "warn", percent(a.threshold)), ` ${usageOf(a)}`),
);

const PERIOD: Column<RaisedAlert> = col("Period from", (a) => periodStart(a.period_start));

const RAISED: Column<RaisedAlert> = col("Raised", (a) => time(a.raised_at));

const DELIVERED: Column<RaisedAlert> = col("Delivered", (a) =>
  timeOr(a.delivered_at, a.attempts ? `Not yet, after ${noun(a.attempts, "attempt")}` : "Not delivered"),
);

const CUSTOMERS = [AGENT, ALERT, PERIOD, RAISED];

// DELIVERED is about the operators' own channel.
const OPERATORS = [...CUSTOMERS, DELIVERED];
