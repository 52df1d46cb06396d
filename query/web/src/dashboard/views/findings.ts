// Findings: what was found wrong and stays on the list until somebody says how
// it was resolved.

import { ask } from "../ask.ts";
import { h, type Child } from "../dom.ts";
import { choices, filters } from "../filters.ts";
import { count, periodStart, time, words } from "../format.ts";
import { empty, panel } from "../panel.ts";
import { actButton, chip, id, named, tenant } from "../parts.ts";
import { col, facts, table, type Column } from "../table.ts";
import type { Finding } from "../types.ts";
import type { Visit } from "../visit.ts";

const PATH = "/api/v1/admin/findings";

export function findingsPanel(visit: Visit): HTMLElement {
  const filter = filters(
    visit,
    [{ name: "findings", label: "Show", options: choices("Open", ["resolved", "all"]) }],
    () => void list.load(true),
  );
  const list = panel(visit, {
    title: "Findings",
    lines: 4,
    tools: filter.element,
    load: (signal) =>
      visit.api.get<{ findings: Finding[] }>(
        PATH,
        { state: filter.value("findings") || "open", limit: 100 },
        signal,
      ),
    render: ({ findings }) => draw(visit, findings, () => void list.load()),
  });
  return list.element;
}

function draw(visit: Visit, findings: Finding[], reload: () => void): Child {
  if (findings.length === 0) {
    return empty(
      visit.query.get("findings")
        ? "There is none."
        : "Nothing is open. What jobs and audits find wrong appears here.",
    );
  }
  const columns: Column<Finding>[] = [
    col("Found", (f) => time(f.found_at)),
    col("Finding", (f) => named(f.kind, f.detail), "wide"),
    col("Tenant", (f) => tenant(visit, f.tenant_id)),
    col("Agent", (f) => f.agent ?? ""),
    col("State", (f) => (f.resolved_at ? chip("good", "Resolved") : chip("warn", "Open"))),
    col("Act", (f) => !f.resolved_at && resolveButton(visit, f, reload), "acts"),
  ];
  return table({ caption: "Findings, newest first", columns, detail }, findings).element;
}

const figure = (n: number | null): string => (n === null ? "–" : count(n));

const detail = (f: Finding): Child =>
  facts([
    ["About", id(f.subject)],
    ["Found by", f.found_by],
    ["Period from", f.period_start ? periodStart(f.period_start) : "–"],
    ["Figure found", figure(f.before)],
    ["Should be", figure(f.after)],
    [
      "Resolved",
      f.resolved_at
        ? [time(f.resolved_at), f.resolved_by && ` by ${f.resolved_by}`, f.resolution && `: ${f.resolution}`]
        : "Not yet",
    ],
  ]);

function resolveButton(visit: Visit, f: Finding, reload: () => void): HTMLElement {
  return actButton(visit, "Resolve", `finding ${f.finding_id}`, () => {
    void ask({
      title: `Resolve: ${words(f.kind)}`,
      says: [
        h("p", null, f.detail),
        h(
          "p",
          { class: "muted" },
          "Resolving changes no data. It takes the finding off the list and records who did it, when and how.",
        ),
      ],
      wants: "How was it resolved?",
      verb: "Resolve",
      act: async (resolution, signal) => {
        const set = await visit.api.post<Finding>(
          `${PATH}/${encodeURIComponent(f.finding_id)}/resolve`,
          { resolution },
          signal,
        );
        return h("p", null, chip("good", "Resolved"), set.resolved_by && ` by ${set.resolved_by}`);
      },
    }).then((tried) => tried && reload());
  });
}
