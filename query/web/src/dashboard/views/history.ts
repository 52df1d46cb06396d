// What a tenant used over time, by agent or by action.

import type { Query } from "../api";
import { fill, h, list, strong, type Child } from "../dom";
import { filters, type Filters } from "../filters";
import { count, sentence, timeZone, words } from "../format";
import { empty, panel } from "../panel";
import { col, table } from "../table";
import type { Bucket, History, HistoryWindow } from "../types";
import type { Visit } from "../visit";
import { chart, colour, type Column, type Series } from "./chart";
import { retentionNote } from "./events";
import { DAY, fromInput, isoAgo } from "./range";

// The ranges, how far back each goes, and the windows that make sense in it,
// the first being the one that is taken without a choice.
const RANGES: { value: string; label: string; ms?: number; windows: HistoryWindow[] }[] = [
  { value: "", label: "This period", windows: ["day", "hour"] },
  { value: "24h", label: "Last 24 hours", ms: DAY, windows: ["hour"] },
  { value: "7d", label: "Last 7 days", ms: 7 * DAY, windows: ["day", "hour"] },
  { value: "30d", label: "Last 30 days", ms: 30 * DAY, windows: ["day", "hour"] },
  { value: "12m", label: "Last 12 months", ms: 365 * DAY, windows: ["month", "day"] },
  { value: "custom", label: "From … to …", windows: ["day", "hour", "month"] },
];

export function historyPanel(visit: Visit, tenantId: string | null): HTMLElement {
  const range = (): (typeof RANGES)[number] =>
    RANGES.find((r) => r.value === visit.query.get("range")) ?? RANGES[0]!;
  const custom = (): boolean => range().value === "custom";
  const offerWindows = (): void => filter.offer("window", windowOptions(range().windows));
  const filter: Filters = filters(
    visit,
    [
      { name: "range", label: "Range", options: RANGES.map((r): [string, string] => [r.value, r.label]) },
      { name: "from", label: "From", input: "date", when: custom },
      { name: "to", label: "Until", input: "date", when: custom },
      { name: "window", label: "In", options: windowOptions(range().windows) },
      {
        name: "by",
        label: "By",
        options: [
          ["", "Agent"],
          ["action_type", "Action"],
        ],
      },
    ],
    () => {
      if (!range().windows.includes(visit.query.get("window") as HistoryWindow)) visit.query.delete("window");
      visit.remember();
      offerWindows();
      void list.load(true);
    },
  );
  const query = (): Query => ({
    tenant_id: tenantId,
    window: filter.value("window") || range().windows[0],
    group_by: filter.value("by") || "agent",
    timezone: timeZone,
    ...span(range(), filter),
  });
  const list = panel(visit.signal, {
    title: "History",
    lines: 8,
    every: 30_000,
    tools: filter.element,
    load: (signal) => visit.api.get<History>("/api/v1/usage/history", query(), signal),
    render: draw,
  });
  return list.element;
}

const windowOptions = (windows: HistoryWindow[]): [string, string][] =>
  windows.map((w, i) => [i === 0 ? "" : w, `${sentence(w)}s`]);

function span(range: (typeof RANGES)[number], filter: Filters): Query {
  if (range.ms) return { from: isoAgo(range.ms) };
  if (range.value !== "custom") return {};
  const last = fromInput(filter.value("to"));
  // The day that is named as the last one is meant to be in it.
  return {
    from: fromInput(filter.value("from")),
    to: last && new Date(Date.parse(last) + DAY).toISOString(),
  };
}

function draw(history: History): Child {
  const series = seriesOf(history);
  const note = retentionNote(history);
  if (series.length === 0) {
    return [note, empty("No usage in this time. An event appears here within a second of being published.")];
  }
  const columns = history.buckets.map((b) => columnOf(b, history, series));
  const total = series.reduce((sum, s) => sum + s.total, 0);
  return [
    note,
    list("legend", [
      ...series.map((s, i) => [
        h("span", { class: `swatch ${colour(i)}` }),
        s.name,
        h("b", null, count(s.total)),
      ]),
      ["Total", h("b", null, count(total))],
    ]),
    chart(`Usage per ${history.window}`, series, columns),
    asTable(history, series, columns),
  ];
}

type Group = Bucket["groups"][number];

const nameOf = (g: Group): string => words(g.agent ?? g.action_type ?? "");

/** The groups in the order of their names: a colour stays with its name from load to load. */
function seriesOf(history: History): Series[] {
  const totals = new Map<string, number>();
  for (const g of history.buckets.flatMap((b) => b.groups)) {
    totals.set(nameOf(g), (totals.get(nameOf(g)) ?? 0) + g.quantity);
  }
  return [...totals].map(([name, total]) => ({ name, total })).sort((a, b) => a.name.localeCompare(b.name));
}

function columnOf(b: Bucket, history: History, series: Series[]): Column {
  const { full, tick } = LABELS[history.window];
  const start = new Date(b.start);
  const quantities = new Map(b.groups.map((g) => [nameOf(g), g.quantity]));
  return {
    label: full.format(start),
    tick: tick.format(start),
    total: b.quantity,
    values: series.map((s) => quantities.get(s.name) ?? 0),
  };
}

const format = (options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat =>
  new Intl.DateTimeFormat(undefined, { ...options, timeZone });

const LABELS: Record<HistoryWindow, { full: Intl.DateTimeFormat; tick: Intl.DateTimeFormat }> = {
  hour: {
    full: format({ weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }),
    tick: format({ hour: "2-digit", minute: "2-digit" }),
  },
  day: {
    full: format({ weekday: "long", day: "numeric", month: "long", year: "numeric" }),
    tick: format({ day: "numeric", month: "short" }),
  },
  month: {
    full: format({ month: "long", year: "numeric" }),
    tick: format({ month: "short", year: "2-digit" }),
  },
};

function asTable(history: History, series: Series[], columns: Column[]): HTMLElement {
  const inside = h("div");
  const details = h(
    "details",
    { class: "as-table" },
    h("summary", null, `As a table (${history.window}s in ${timeZone})`),
    inside,
  );
  details.addEventListener("toggle", () => {
    if (inside.hasChildNodes()) return;
    fill(
      inside,
      table<Column>(
        {
          caption: `Usage per ${history.window}`,
          columns: [
            col(sentence(history.window), (c) => c.label),
            ...series.map((s, i) => col(s.name, (c: Column) => count(c.values[i] ?? 0), "number")),
            col("Total", (c) => strong(count(c.total)), "number"),
          ],
        },
        [...columns].reverse(),
      ).element,
    );
  });
  return details;
}
