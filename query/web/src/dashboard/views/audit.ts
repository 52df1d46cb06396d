// The last audit: whether the five books agree, and what was found when they did not.

import { h, list, type Child } from "../dom.ts";
import { ago, count, noun, periodStart, time } from "../format.ts";
import { empty, panel } from "../panel.ts";
import { chip, id, named, readOnlyNote, sumOf, tenant, title } from "../parts.ts";
import { code, col, facts, table, type Column } from "../table.ts";
import type { Audit, AuditReport, Comparison, Difference } from "../types.ts";
import type { Visit } from "../visit.ts";
import { findingsPanel } from "./findings.ts";

export function auditPage(visit: Visit): Child {
  const last = panel(visit, {
    title: "Last audit",
    lines: 7,
    load: (signal) => visit.api.get<{ audit: Audit | null }>("/api/v1/admin/audits/latest", {}, signal),
    render: ({ audit }) =>
      audit
        ? draw(visit, audit)
        : empty("No audit yet. The job reconcile makes one each night; odometer audit makes one now."),
  });
  return [title("Audit"), readOnlyNote(visit), last.element, findingsPanel(visit)];
}

function draw(visit: Visit, audit: Audit): Child {
  const { report } = audit;
  const notes = report.notes ?? [];
  return [
    h(
      "p",
      { class: "lead" },
      audit.different === 0
        ? chip("good", "No difference")
        : chip("bad", noun(audit.different, "difference")),
      " ",
      time(audit.at),
      ` (${ago(audit.at)}), by ${audit.by}`,
    ),
    table({ caption: "The four comparisons", columns: COMPARISONS }, report.comparisons).element,
    streamLine(report),
    (report.differences ?? []).length > 0 && differences(visit, report.differences ?? [], audit.different),
    notes.length > 0 && [h("h3", null, "Notes"), list("notes", notes)],
  ];
}

const COMPARISONS: Column<Comparison>[] = [
  col("Compared data", (c) => named(c.name, c.of), "wide"),
  col("Compared", (c) => count(c.compared), "number"),
  col("Equal", (c) => count(c.equal), "number"),
  col("Different", (c) => quietZero(c.different, "bad-text"), "number"),
  col("Unsettled", (c) => quietZero(c.unsettled), "number"),
  col("Unknown", (c) => quietZero(c.unknown), "number"),
];

const quietZero = (n: number, tone = ""): Child =>
  h("span", { class: n === 0 ? "muted" : `strong ${tone}` }, count(n));

function streamLine({ stream: s, open_dead_letters }: AuditReport): Child {
  if (s.messages === 0) return h("p", { class: "muted" }, "The stream held no message to compare.");
  return h(
    "p",
    { class: "equation" },
    `Stream ${count(s.first_seq)} to ${count(s.through_seq)}: `,
    sumOf(s),
    s.waiting > 0 && `; ${count(s.waiting)} waiting`,
    `; ${count(open_dead_letters)} open`,
  );
}

function differences(visit: Visit, listed: Difference[], all: number): Child {
  const columns: Column<Difference>[] = [
    col("Difference", (d) => named(d.kind, d.comparison), "wide"),
    col("Tenant", (d) => tenant(visit, d.tenant_id)),
    col("Agent", (d) => d.agent ?? ""),
    col("Period from", (d) => d.period_start && periodStart(d.period_start)),
    col("Expected", (d) => d.expected),
    col("Found", (d) => h("span", { class: "bad-text" }, d.found)),
  ];
  const detail = (d: Difference): Child => [
    facts([
      ["Where", d.where ? id(d.where) : "–"],
      ["Cause", d.cause],
    ]),
    h("p", { class: "muted" }, "Repaired by"),
    code(d.repair),
  ];
  return [
    h("h3", null, "Differences"),
    table({ caption: "Differences between the data sets", columns, detail }, listed).element,
    all > listed.length &&
      h("p", { class: "note" }, `The first ${count(listed.length)} of ${count(all)} are listed.`),
  ];
}
