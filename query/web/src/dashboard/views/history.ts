// What a tenant used over time, by agent or by action.

import type { Query } from "../api.ts";
import { fill, h, strong, type Child } from "../dom.ts";
import { filters, type Filters } from "../filters.ts";
import { count, locale, sentence, time, timeZone, words } from "../format.ts";
import { empty, panel } from "../panel.ts";
import { col, table, type Column } from "../table.ts";
import type { Bucket, History, HistoryWindow } from "../types.ts";
import type { Visit } from "../visit.ts";
import { retentionNote } from "./events.ts";
import { DAY, fromInput, isoAgo } from "./range.ts";

// The ranges, how far back each goes, and the windows that make sense in it,
// the first being the one that is taken without a choice.
const RANGES: { value: string; label: string; ms?: number; windows: HistoryWindow[] }[] = [
  { value: "", label: "From the period's first day", windows: ["day", "hour"] },
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
  const plot = h("div", { class: "plot" });
  const show = plotted(visit, plot);
  const list = panel(visit, {
    title: "History",
    lines: 8,
    every: 30_000,
    besideWidget: tenantId === null,
    tools: filter.element,
    load: (signal) => visit.api.get<History>("/api/v1/usage/history", query(), signal),
    render: (history) => draw(history, [range().value === "" && wholeNote(history), retentionNote(history)], plot, show),
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

type Show = (history: History) => void;

// plotted draws into the element with the chart that the widget has too, which
// comes when it is first needed. Without it there is still the table.
function plotted(visit: Visit, element: HTMLElement): Show {
  let stop = (): void => {};
  visit.signal.addEventListener("abort", () => stop());
  return async (history) => {
    const chart = await import("odometer-chart").catch(() => null);
    if (!chart)
      return fill(
        element,
        h("p", { class: "note" }, "The chart could not be loaded. Its numbers are in the table."),
      );
    if (!visit.signal.aborted && element.isConnected)
      stop = chart.drawHistory(element, history, {
        locale,
        caption: `Usage per ${history.window}`,
        height: 220,
      });
  };
}

// wholeNote says why these sums are not the period's count: a period may begin
// at any second, and counts what is reported late.
function wholeNote({ window, from }: History): Child {
  return h(
    "p",
    { class: "note" },
    `Whole ${window}s since `,
    time(from),
    `, by when things happened. The period's own count, which is billed, begins with the period rather than with the ${window}.`,
  );
}

function draw(history: History, notes: Child, plot: HTMLElement, show: Show): Child {
  if (history.buckets.every((b) => b.groups.length === 0)) {
    return [notes, empty("No usage in this time. An event appears here within a second of being published.")];
  }
  show(history);
  return [notes, plot, asTable(history)];
}

const FORMATS: Record<HistoryWindow, Intl.DateTimeFormatOptions> = {
  hour: { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" },
  day: { weekday: "short", day: "numeric", month: "short", year: "numeric" },
  month: { month: "long", year: "numeric" },
};

// asTable is made when it is opened: hours can be hundreds.
function asTable(history: History): HTMLElement {
  const inside = h("div");
  const details = h(
    "details",
    { class: "as-table" },
    h("summary", null, `As a table (${history.window}s in ${history.timezone})`),
    inside,
  );
  details.addEventListener("toggle", () => {
    if (!inside.hasChildNodes()) fill(inside, numbers(history));
  });
  return details;
}

function numbers(history: History): HTMLElement {
  const when = new Intl.DateTimeFormat(locale, { ...FORMATS[history.window], timeZone: history.timezone });
  const name = (g: Bucket["groups"][number]): string => g.agent ?? g.action_type ?? "";
  const names = [...new Set(history.buckets.flatMap((b) => b.groups.map(name)))];
  const columns: Column<Bucket>[] = [
    col(sentence(history.window), (b) => when.format(new Date(b.start))),
    ...names.map((n) =>
      col<Bucket>(
        sentence(words(n)),
        (b) => count(b.groups.find((g) => name(g) === n)?.quantity ?? 0),
        "number",
      ),
    ),
    col("Total", (b) => strong(count(b.quantity)), "number"),
  ];
  return table(
    { caption: `Usage per ${history.window}, newest first`, columns },
    [...history.buckets].reverse(),
  ).element;
}
