// All tenants, by what they use and owe.

import { h, muted, type Child } from "../dom.ts";
import { count, noun, period } from "../format.ts";
import { choices, filters } from "../filters.ts";
import { empty, panel } from "../panel.ts";
import { meters, overageCost, planOf, state, tenant, title } from "../parts.ts";
import { col, paged } from "../table.ts";
import type { Tenant, Tenants } from "../types.ts";
import { href, type Visit } from "../visit.ts";
import { currencyOf } from "./currency.ts";

const PATH = "/api/v1/admin/tenants";

export function tenantsPage(visit: Visit): Child {
  const filter = filters(
    visit,
    [
      { name: "search", label: "Search", input: "search", placeholder: "Start of tenant or customer" },
      {
        name: "status",
        label: "Status",
        options: choices("Any", ["active", "trial", "past_due", "canceled", "expired"]),
      },
      {
        name: "sort",
        label: "Sort by",
        options: choices("Overage", ["usage", "tenant"]),
      },
    ],
    () => void list.load(true),
  );
  const fetchPage = (cursor: string | null, signal: AbortSignal): Promise<Tenants> => {
    const search = idByName(visit, filter.value("search"));
    return visit.api.get<Tenants>(
      PATH,
      { search, status: filter.value("status"), sort: filter.value("sort"), limit: 50, cursor },
      signal,
    );
  };
  const list = panel(visit, {
    title: "By usage in the running period",
    lines: 10,
    tools: filter.element,
    load: async (signal) => {
      const [first, currency] = await Promise.all([fetchPage(null, signal), currencyOf(visit.api)]);
      return { ...first, currency };
    },
    render: (first) => draw(visit, first, first.currency, (cursor) => fetchPage(cursor, visit.signal)),
  });
  return [title("Tenants"), list.element];
}

// The API knows tenants by their ids alone; the demo's sessions have names.
function idByName(visit: Visit, search: string): string {
  const named = [...visit.names].find(
    ([, name]) => search && name.toLowerCase().startsWith(search.toLowerCase()),
  );
  return named ? named[0] : search;
}

function draw(
  visit: Visit,
  first: Tenants,
  currency: string,
  fetchPage: (cursor: string) => Promise<Tenants>,
): Child {
  if (first.tenants.length === 0) {
    return visit.query.size > 0
      ? empty("No tenant matches. Try another search or any status.")
      : empty("No tenant yet. odometer subscription set gives one its plan.");
  }
  const list = paged<Tenant, Tenants>(visit, {
    caption: "Tenants",
    columns: [
      col("Tenant", (t) => tenant(visit, t.tenant_id)),
      col("Status", (t) => state(t.status)),
      col("Plan", (t) => [t.period_start ? planOf(t) : null, h("span", { class: "means" }, periodOf(t))]),
      col("Usage", (t) => meters(t), "wide"),
      col("Units", (t) => count(t.total_count), "number"),
      col("Overage", (t) => overageCost(t.total_overage_cost_cents, currency), "number"),
      col("Dead letters", (t) => deadLetters(t.tenant_id, t.open_dead_letters), "number"),
    ],
    first,
    fetchPage,
    rows: (page) => page.tenants,
    word: "tenant",
  });
  return [h("p", { class: "lead" }, noun(first.total, "tenant")), list];
}

const deadLetters = (id: string, open: number): Child =>
  open === 0 ? muted("0") : h("a", { href: href(`tenants/${id}/dead-letters`), class: "warn" }, count(open));

const periodOf = (t: Tenant): Child =>
  t.period_start && t.period_end ? period(t.period_start, t.period_end) : "No period";
