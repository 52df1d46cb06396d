// The events of a tenant, newest first: what each number is made of.

import { announce, fill, h, icon, muted, type Child } from "../dom.ts";
import { count, time, words } from "../format.ts";
import { choices, filters, type Filters } from "../filters.ts";
import { empty, panel, problemBox } from "../panel.ts";
import { chip, id } from "../parts.ts";
import { code, col, facts, paged, type Column } from "../table.ts";
import type { Events, History, Instant, UsageEvent } from "../types.ts";
import type { Query } from "../api.ts";
import type { Visit } from "../visit.ts";
import { DAY, fromInput, isoAgo } from "./range.ts";

const PATH = "/api/v1/usage/events";
const PER_PAGE = 50;
const ALL_AGENTS = "All agents";
const ALL_ACTIONS = "All actions";

export function eventsPanel(visit: Visit, tenantId: string | null): HTMLElement {
  const custom = (): boolean => visit.query.get("range") === "custom";
  const filter = filters(
    visit,
    [
      { name: "agent", label: "Agent", options: choices(ALL_AGENTS, []) },
      { name: "action", label: "Action", options: choices(ALL_ACTIONS, []) },
      {
        name: "range",
        label: "Time",
        options: [
          ["", "Last 31 days"],
          ["7d", "Last 7 days"],
          ["24h", "Last 24 hours"],
          ["custom", "From … to …"],
        ],
      },
      { name: "from", label: "From", input: "datetime-local", when: custom },
      { name: "to", label: "To", input: "datetime-local", when: custom },
    ],
    () => void list.load(true),
  );
  const query = (): Query => ({
    tenant_id: tenantId,
    agent: filter.value("agent"),
    action_type: filter.value("action"),
    ...span(filter),
  });
  const list = panel(visit, {
    title: "What was counted",
    lines: 10,
    tools: [filter.element, csvButton(visit, query)],
    load: (signal) => visit.api.get<Events>(PATH, { ...query(), limit: PER_PAGE }, signal),
    render: (first) => draw(visit, first, query()),
  });
  void offerChoices(visit, tenantId, filter);
  return list.element;
}

function span(filter: Filters): Query {
  switch (filter.value("range")) {
    case "24h":
      return { from: isoAgo(DAY) };
    case "7d":
      return { from: isoAgo(7 * DAY) };
    case "custom":
      return { from: fromInput(filter.value("from")), to: fromInput(filter.value("to")) };
    default:
      return {};
  }
}

function draw(visit: Visit, first: Events, query: Query): Child {
  const note = retentionNote(first);
  if (first.events.length === 0) {
    return [note, empty("No events here. Ask for a longer time, or for all agents and actions.")];
  }
  // The pages that follow keep to the window of the first, however long the reader takes.
  const span = { from: first.from, to: first.to, limit: PER_PAGE };
  const list = paged<UsageEvent, Events>(visit, {
    caption: "Events, newest first",
    columns: COLUMNS,
    detail,
    first,
    fetchPage: (cursor) => visit.api.get<Events>(PATH, { ...query, ...span, cursor }, visit.signal),
    rows: (page) => page.events,
    word: "event",
  });
  return [note, list];
}

const COLUMNS: Column<UsageEvent>[] = [
  col("Occurred", (e) => time(e.occurred_at)),
  col("Agent", (e) => e.agent),
  col("Action", (e) => [words(e.action_type), " ", marks(e)]),
  col("Quantity", (e) => count(e.quantity), "number"),
  col("Resource", (e) => (e.resource_id ? id(e.resource_id) : muted("none"))),
  col("Idempotency key", (e) => id(e.idempotency_key), "wide"),
];

const marks = (e: UsageEvent): Child => [
  e.kind === "adjustment" && chip("calm", "Correction"),
  e.late && chip("warn", "Late"),
];

const detail = (e: UsageEvent): Child => [
  facts([
    ["Event", id(e.event_id)],
    ["Occurred", e.occurred_at],
    ["Recorded", e.recorded_at],
    ["Counted in the period from", e.period_start],
  ]),
  e.late && h("p", { class: "note" }, "Its own period was closed already, so it counts in a later one."),
  e.metadata ? code(JSON.stringify(e.metadata, null, 2)) : h("p", { class: "muted" }, "No metadata."),
];

/** retentionNote says what is not there any more, instead of showing none. */
export function retentionNote({
  from,
  complete_from,
}: {
  from: Instant;
  complete_from: Instant | null;
}): Child {
  if (!complete_from || complete_from <= from) return null;
  return h(
    "p",
    { class: "note" },
    "Events from before ",
    time(complete_from),
    " may have been removed after their time of retention. The sums of their periods are kept.",
  );
}

function csvButton(visit: Visit, query: () => Query): HTMLElement {
  const said = h("div", { role: "status", class: "download-status" });
  const button = h("button", { type: "button", class: "with-icon" }, icon("download"), "Download CSV");
  const download = async (): Promise<void> => {
    button.disabled = true;
    fill(said, muted("Preparing the file…"));
    try {
      const file = await visit.api.csv(PATH, query(), visit.signal);
      save(file, `usage-events-${new Date().toISOString().slice(0, 10)}.csv`);
      fill(said);
      announce("The file is downloaded");
    } catch (error) {
      if (!visit.signal.aborted)
        fill(
          said,
          problemBox(error, visit.signal, () => void download()),
        );
    }
    button.disabled = false;
  };
  button.addEventListener("click", () => void download());
  return h("div", { class: "download" }, button, said);
}

function save(file: Blob, name: string): void {
  const url = URL.createObjectURL(file);
  h("a", { href: url, download: name }).click();
  // The browser has taken it up by the next task.
  setTimeout(() => URL.revokeObjectURL(url));
}

// offerChoices fills the filters with the agents and actions that the tenant
// has used lately. Without that answer the list still works.
async function offerChoices(visit: Visit, tenantId: string | null, filter: Filters): Promise<void> {
  const query = {
    tenant_id: tenantId,
    window: "month",
    group_by: "agent,action_type",
    from: isoAgo(31 * DAY),
  };
  const history = await visit.api
    .get<History>("/api/v1/usage/history", query, visit.signal)
    .catch(() => null);
  const groups = history?.buckets.flatMap((b) => b.groups) ?? [];
  const distinct = (values: (string | undefined)[]): string[] =>
    [...new Set(values.filter((v) => v !== undefined))].sort();
  filter.offer("agent", choices(ALL_AGENTS, distinct(groups.map((g) => g.agent))));
  filter.offer("action", choices(ALL_ACTIONS, distinct(groups.map((g) => g.action_type))));
}
