// The ledger: what was reported to Stripe, and the outcome of each entry.

import { h, list, muted, strong, type Child } from "../dom.ts";
import { choices, filters } from "../filters.ts";
import { count, noun, periodStart, time, timeOr, words } from "../format.ts";
import { empty, panel } from "../panel.ts";
import { chip, id, state, tenant, title } from "../parts.ts";
import { col, facts, paged, type Column } from "../table.ts";
import type { Ledger, Link } from "../types.ts";
import type { Visit } from "../visit.ts";

const PATH = "/api/v1/admin/ledger";

const MEANS: Record<string, string> = {
  planned: "frozen, not sent yet",
  sending: "a call is under way, or its answer is awaited",
  accepted: "Stripe has taken it",
  verified: "found in Stripe's own summary",
  unknown: "no answer: asked for again, never guessed",
  rejected: "Stripe refused it",
  unbillable: "no invoice will take it any more",
};

export function ledgerPage(visit: Visit): Child {
  return [title("Ledger"), ledgerPanels(visit, null)];
}

/** ledgerPanels are the links of one tenant, or of all. */
export function ledgerPanels(visit: Visit, tenantId: string | null): Child {
  const filter = filters(
    visit,
    [
      { name: "state", label: "State", options: choices("Any", Object.keys(MEANS)) },
      {
        name: "tenant",
        label: "Tenant",
        placeholder: "UUID",
        when: () => tenantId === null,
      },
    ],
    () => void list.load(true),
  );
  const fetchPage = (cursor: string | null, signal: AbortSignal): Promise<Ledger> =>
    visit.api.get<Ledger>(
      PATH,
      { tenant_id: tenantId ?? filter.value("tenant"), state: filter.value("state"), limit: 50, cursor },
      signal,
    );
  const list = panel(visit, {
    title: "Reported to Stripe",
    lines: 10,
    note: "Each entry brings the total of a tenant, agent and period from one figure to the next, in units of overage. Only one entry of a customer's meter is undecided at a time.",
    tools: filter.element,
    load: (signal) => fetchPage(null, signal),
    render: (first) => draw(visit, tenantId, first, (cursor) => fetchPage(cursor, visit.signal)),
  });
  return list.element;
}

function draw(
  visit: Visit,
  tenantId: string | null,
  first: Ledger,
  fetchPage: (cursor: string) => Promise<Ledger>,
): Child {
  if (first.links.length === 0) {
    return [
      totals(first),
      empty(
        visit.query.size > 0
          ? "No entry matches the filter."
          : "Nothing was reported to Stripe yet. There is no overage, or no key for Stripe.",
      ),
    ];
  }
  const list = paged<Link, Ledger>(visit, {
    caption: "Ledger entries, newest first",
    columns: columns(visit, tenantId),
    detail,
    first,
    fetchPage,
    rows: (page) => page.links,
    word: "entry",
  });
  return [totals(first), list];
}

const totals = (l: Ledger): Child =>
  l.totals.length > 0 &&
  list(
    "totals",
    l.totals.map((t) => [
      state(t.state),
      h("b", null, noun(t.units, "unit")),
      muted(`in ${noun(t.links, "entry")}`),
    ]),
  );

function columns(visit: Visit, tenantId: string | null): Column<Link>[] {
  const all: Column<Link>[] = [
    col("Reported for", (l) => time(l.reported_at)),
    col("Tenant", (l) => tenant(visit, l.tenant_id)),
    col("Agent", (l) => l.agent),
    col("Period from", (l) => [
      periodStart(l.period_start),
      l.billed_period_start !== l.period_start && chip("calm", "Carried"),
    ]),
    col("Total", (l) => `${count(l.from_total)} → ${count(l.to_total)}`, "number"),
    col("Sent", (l) => strong(count(l.value)), "number"),
    col("State", (l) => state(l.state)),
    col("Customer", (l) => (l.stripe_customer ? id(l.stripe_customer) : timeOr(null, "none"))),
  ];
  return tenantId ? all.filter((c) => c.head !== "Tenant") : all;
}

const ORIGINS: Record<string, string> = {
  reported: "Reported by us",
  found: "Found in Stripe's summary",
  invoiced: "Taken from the final invoice",
};

const detail = (l: Link): Child => [
  facts([
    ["State means", MEANS[l.state] ?? words(l.state)],
    ["Origin", ORIGINS[l.origin] ?? l.origin],
    ["Identifier", id(l.identifier)],
    ["Meter", `${l.meter} (${words(l.sink)}, ${l.livemode ? "live" : "test"} mode)`],
    ["Revision", String(l.revision)],
    ["Billed in the period from", periodStart(l.billed_period_start)],
    [
      "Attempts",
      l.first_attempt_at ? [count(l.attempts), ", first ", time(l.first_attempt_at)] : count(l.attempts),
    ],
    ["Decided", timeOr(l.decided_at, "Not yet")],
  ]),
  l.detail && h("p", { class: "note" }, l.detail),
];
