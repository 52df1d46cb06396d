// One tenant, as an operator sees it.

import { h, list, muted, type Child } from "../dom.ts";
import { period, time, timeOr, words } from "../format.ts";
import { panel } from "../panel.ts";
import { id, lacksPlan, planOf, state, title, usageTable } from "../parts.ts";
import { facts } from "../table.ts";
import type { Tenant, TenantDetail } from "../types.ts";
import { href, type Visit } from "../visit.ts";
import { alertsPanel } from "./alerts.ts";
import { currencyOf } from "./currency.ts";
import { deadLettersPanels } from "./deadletters.ts";
import { eventsPanel } from "./events.ts";
import { forecastPanel } from "./forecast.ts";
import { historyPanel } from "./history.ts";
import { ledgerPanels } from "./ledger.ts";
import { periodsPanel } from "./periods.ts";

const TABS: [string, string, (visit: Visit, tenantId: string) => Child][] = [
  ["", "Usage", usageTab],
  ["events", "Events", eventsPanel],
  ["periods", "Periods", periodsPanel],
  ["dead-letters", "Dead letters", deadLettersPanels],
  ["ledger", "Ledger", ledgerPanels],
];

export function tenantPage(visit: Visit): Child {
  const [, tenantId = "", tab = ""] = visit.path;
  const [, , show] = TABS.find(([path]) => path === tab) ?? TABS[0]!;
  const links = TABS.map(([path, name]) =>
    h(
      "a",
      { href: href(`tenants/${tenantId}${path && `/${path}`}`), "aria-current": path === tab && "page" },
      name,
    ),
  );
  const name = visit.names.get(tenantId);
  return [
    h("p", { class: "crumbs" }, h("a", { href: href("tenants") }, "Tenants")),
    title(name ?? id(tenantId), name && h("span", { class: "id muted" }, tenantId)),
    h("nav", { "aria-label": "Tenant", class: "tabs" }, list(null, links)),
    show(visit, tenantId),
  ];
}

function usageTab(visit: Visit, tenantId: string): Child {
  return [
    subscriptionPanel(visit, tenantId),
    historyPanel(visit, tenantId),
    h("div", { class: "columns" }, forecastPanel(visit, tenantId), alertsPanel(visit, tenantId)),
  ];
}

function subscriptionPanel(visit: Visit, tenantId: string): HTMLElement {
  return panel(visit, {
    title: "Subscription and usage",
    lines: 7,
    every: 30_000,
    load: async (signal) => {
      const path = `/api/v1/admin/tenants/${encodeURIComponent(tenantId)}`;
      const [detail, currency] = await Promise.all([
        visit.api.get<TenantDetail>(path, {}, signal),
        currencyOf(visit.api),
      ]);
      return { ...detail, currency };
    },
    render: draw,
  }).element;
}

function draw({ tenant: t, subscription: s, currency }: TenantDetail & { currency: string }): Child {
  return h(
    "div",
    { class: "columns tight" },
    facts([
      ["Status", state(t.status)],
      ["Plan", t.period_start ? planFact(t) : muted("No period has begun")],
      [
        "Running period (UTC)",
        t.period_start && t.period_end ? period(t.period_start, t.period_end) : muted("None"),
      ],
      ["Renews every", s.interval && s.interval !== "none" ? words(s.interval) : muted("Does not renew")],
      ["Trial ends", timeOr(s.trial_ends_at, "No trial")],
      [
        "Stripe customer",
        s.stripe_customer ? id(s.stripe_customer) : muted("None: overage cannot be billed"),
      ],
      ["Stripe subscription", s.stripe_subscription ? id(s.stripe_subscription) : muted("None")],
      ["Changed", time(s.updated_at)],
    ]),
    h("div", null, usageTable(t, currency)),
  );
}

const planFact = (t: Tenant): Child => [
  planOf(t),
  " ",
  t.plan && h("span", { class: "id muted" }, t.plan.id),
  lacksPlan(t) &&
    t.status === "active" &&
    h("span", { class: "means" }, "The customer is refused its usage until odometer subscription set gives it one."),
];
