// Where a tenant's usage is heading at the present pace.

import { h, muted, strong, type Child } from "../dom.ts";
import { ago, count, decimal, money, period, time } from "../format.ts";
import { empty, panel } from "../panel.ts";
import { overageCost, usageOf } from "../parts.ts";
import { col, table } from "../table.ts";
import type { AgentForecast, Forecast } from "../types.ts";
import type { Visit } from "../visit.ts";

export function forecastPanel(visit: Visit, tenantId: string | null): HTMLElement {
  return panel(visit, {
    title: "Forecast",
    lines: 4,
    every: 30_000,
    besideWidget: tenantId === null,
    load: (signal) => visit.api.get<Forecast>("/api/v1/usage/forecast", { tenant_id: tenantId }, signal),
    render: draw,
  }).element;
}

function draw(f: Forecast): Child {
  if (f.projected_overage_cost_cents === null)
    return h(
      "p",
      { class: "lead" },
      "The period ",
      period(f.period_start, f.period_end),
      " has only begun: it is too early to tell how it ends.",
    );
  const agents = Object.entries(f.usage);
  if (agents.length === 0)
    return empty("There is no agent in the catalogue yet, so there is nothing to foresee.");
  const rows = table<[string, AgentForecast]>(
    {
      caption: "Forecast by agent at the present pace",
      columns: [
        col("Agent", ([agent]) => agent),
        col("Per day", ([, u]) => decimal(u.per_day), "number"),
        col("At period end", ([, u]) => projected(u)),
        col("Limit reached", ([, u]) => reached(u)),
        col("Expected overage", ([, u]) => overageCost(u.projected_overage_cost_cents, f.currency), "number"),
      ],
    },
    agents,
  ).element;
  return [
    h(
      "p",
      { class: "lead" },
      "At the present pace the period ",
      period(f.period_start, f.period_end),
      f.projected_overage_cost_cents > 0
        ? [" ends with ", strong(money(f.projected_overage_cost_cents, f.currency)), " of overage."]
        : " ends without overage.",
    ),
    rows,
  ];
}

// Without a limit there may be a trial, or no plan: the answer does not say which.
const projected = (u: AgentForecast): string =>
  u.limit === null ? count(u.projected_count) : usageOf({ count: u.projected_count, limit: u.limit });

function reached(u: AgentForecast): Child {
  if (u.limit === null || u.limit === 0) return muted("–");
  if (u.days_until_limit === null) return "Not in this period";
  if (u.days_until_limit === 0) return h("span", { class: "bad-text" }, "Reached");
  return u.limit_reached_at
    ? h("span", { class: "warn" }, ago(u.limit_reached_at), " (", time(u.limit_reached_at), ")")
    : `In ${decimal(u.days_until_limit)} days`;
}
