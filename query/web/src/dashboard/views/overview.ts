// The operator's first look: how fast events come, how far counting is behind,
// and what waits for a person. It is asked for every two seconds while it is
// looked at.

import { Problem } from "../api.ts";
import { fill, h, newId, type Child } from "../dom.ts";
import { count, duration, money, time, timeOr, words } from "../format.ts";
import { empty, panel, skeleton } from "../panel.ts";
import { chip, meters, overageCost, sumOf, tenant, title, type Tone } from "../parts.ts";
import { col, table } from "../table.ts";
import type { Instant, Overview, Tenant, Tenants } from "../types.ts";
import { href, repeat, type Visit } from "../visit.ts";
import { latestAlerts } from "./alerts.ts";
import { currencyOf } from "./currency.ts";
import { liveRate } from "./rate.ts";

const PATH = "/api/v1/admin/overview";
const PACE = 2000; // ms between looks
const AFTER_FAILURE = 5000;

export function overviewPage(visit: Visit): Child {
  const live = h("span", { class: "as-of" }, "Connecting…");
  const notice = h("div", { role: "status" });
  const rate = liveRate();
  const tiles = TILES.map(makeTile);
  const stream = plainPanel("The stream adds up");
  let since: Instant | null = null;

  repeat(visit.signal, async () => {
    try {
      const o = await visit.api.get<Overview>(PATH, {}, visit.signal);
      since = o.at;
      rate.add(o.events_per_second, o.at);
      tiles.forEach((t) => t.show(o));
      fill(stream.body, streamSum(o), partitionTable(o));
      fill(live, chip("good", "Live"), " as of ", o.as_of ? time(o.as_of) : "a time not known yet");
      fill(notice);
      return PACE;
    } catch (error) {
      if (visit.signal.aborted) return 0;
      const pause = waitAfter(error);
      fill(live, chip("warn", "Not live"));
      fill(notice, failure(error, since, pause));
      return pause;
    }
  });

  return [
    title("Overview", live),
    notice,
    h(
      "div",
      { class: "tiles" },
      rate.element,
      tiles.map((t) => t.element),
    ),
    h(
      "div",
      { class: "columns" },
      h("div", { class: "stack" }, stream.element, latestAlerts(visit)),
      topTenants(visit),
    ),
  ];
}

function plainPanel(name: string): { element: HTMLElement; body: HTMLElement } {
  const heading = h("h2", { id: newId() }, name);
  const body = h("div", { class: "panel-body" }, skeleton(6));
  return {
    body,
    element: h(
      "section",
      { class: "panel", "aria-labelledby": heading.id },
      h("div", { class: "panel-head" }, heading),
      body,
    ),
  };
}

const waitAfter = (error: unknown): number =>
  error instanceof Problem && error.retryAfter !== null ? error.retryAfter * 1000 : AFTER_FAILURE;

function failure(error: unknown, since: string | null, pause: number): HTMLElement {
  return h(
    "div",
    { class: since ? "problem stale" : "problem" },
    h(
      "p",
      null,
      error instanceof Error ? error.message : String(error),
      since && [" These figures were read at ", time(since), "."],
      ` Trying again in ${Math.round(pause / 1000)} s.`,
    ),
  );
}

const late = (seconds: number | null): Tone =>
  seconds === null ? "calm" : seconds > 60 ? "bad" : seconds > 10 ? "warn" : "calm";

const waiting = (n: number): Tone => (n > 0 ? "warn" : "calm");

// A tile is a figure with its name and what it means; null is "not known".
interface Tile {
  name: string;
  note: (o: Overview) => string;
  link?: string;
  figure: (o: Overview) => string | null;
  tone?: (o: Overview) => Tone;
}

const TILES: Tile[] = [
  {
    name: "Freshness",
    note: () => "from the stream to the counter",
    figure: (o) => (o.freshness_seconds === null ? null : duration(o.freshness_seconds)),
    tone: (o) => late(o.freshness_seconds),
  },
  {
    name: "Lag",
    note: () => "messages stored, not counted yet",
    figure: (o) => (o.lag_messages === null ? null : count(o.lag_messages)),
  },
  {
    name: "Overage",
    note: (o) =>
      `tenants: ${Object.entries(o.tenants)
        .filter(([, n]) => n > 0)
        .map(([status, n]) => `${count(n)} ${words(status)}`)
        .join(", ")}`,
    link: href("tenants"),
    figure: (o) => money(o.overage_cost_cents, o.currency),
  },
  {
    name: "Dead letters",
    note: () => "open",
    link: href("dead-letters"),
    figure: (o) => count(o.open_dead_letters),
    tone: (o) => waiting(o.open_dead_letters),
  },
  {
    name: "Findings",
    note: () => "open",
    link: href("audit"),
    figure: (o) => count(o.open_findings),
    tone: (o) => waiting(o.open_findings),
  },
  {
    name: "Undecided",
    note: () => "reports to Stripe",
    link: href("ledger"),
    figure: (o) => count(o.undecided_links),
    tone: (o) => waiting(o.undecided_links),
  },
];

// makeTile draws a tile that keeps its place, so that nothing moves but the figure.
function makeTile(t: Tile): { element: HTMLElement; show: (o: Overview) => void } {
  const figure = h("span", { class: "figure" }, "…");
  const note = h("span", { class: "tile-note" }, "\u00a0");
  const inside = [h("span", { class: "tile-name" }, t.name), figure, note];
  const show = (o: Overview): void => {
    const text = t.figure(o);
    figure.textContent = text ?? "not known";
    figure.className = `figure ${text === null ? "unknown" : (t.tone?.(o) ?? "")}`;
    note.textContent = t.note(o);
  };
  return { show, element: h(t.link ? "a" : "div", { class: "tile", href: t.link }, inside) };
}

function streamSum(o: Overview): Child {
  const t = o.totals;
  if (t === null) return h("p", { class: "note" }, "The batches of this installation are being added up for the first time.");
  return [
    h("p", { class: "equation" }, sumOf(t)),
    h(
      "p",
      { class: "note" },
      t.messages === t.events + t.duplicates + t.dead_letters
        ? "Every message that was read is an event, a repeat of one, or a dead letter with a reason."
        : "The sum does not hold. Run odometer audit: it says which messages are missing.",
      o.stream.last_seq !== null &&
        ` The stream, in epoch ${o.stream.epoch}, is at ${count(o.stream.last_seq)}.`,
    ),
  ];
}

function partitionTable(o: Overview): Child {
  if (o.partitions.length === 0) return empty("No partition was read yet. Is the aggregator running?");
  return table<Overview["partitions"][number]>(
    {
      caption: "How far each partition was read",
      columns: [
        col("Partition", (p) => String(p.partition)),
        col("Read up to", (p) => count(p.seq), "number"),
        col("As of", (p) => timeOr(p.as_of, "not known yet")),
        col(
          "Freshness",
          (p) =>
            p.freshness_seconds === null
              ? "not known yet"
              : h("span", { class: late(p.freshness_seconds) }, duration(p.freshness_seconds)),
          "number",
        ),
      ],
    },
    o.partitions,
  ).element;
}

function topTenants(visit: Visit): HTMLElement {
  return panel(visit, {
    title: "Highest overage",
    lines: 5,
    every: 15_000,
    load: async (signal) => {
      const query = { sort: "overage", limit: 7 };
      const [page, currency] = await Promise.all([
        visit.api.get<Tenants>("/api/v1/admin/tenants", query, signal),
        currencyOf(visit.api),
      ]);
      return { ...page, currency };
    },
    render: ({ tenants, total, currency }) => {
      if (tenants.length === 0) return empty("No tenant yet. odometer subscription set gives one its plan.");
      const list = table<Tenant>(
        {
          caption: "Tenants with the highest overage",
          columns: [
            col("Tenant", (t) => tenant(visit, t.tenant_id)),
            col("Usage", (t) => meters(t), "wide"),
            col("Overage", (t) => overageCost(t.total_overage_cost_cents, currency), "number"),
          ],
        },
        tenants,
      );
      return [
        list.element,
        total > tenants.length &&
          h("p", { class: "pager" }, h("a", { href: href("tenants") }, `All ${count(total)} tenants`)),
      ];
    },
  }).element;
}
