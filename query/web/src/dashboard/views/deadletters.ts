// What could not be counted, and why. A retry judges it again: what it lacked
// may have come meanwhile.

import { ask } from "../ask.ts";
import { fill, h, list, muted, type Child } from "../dom.ts";
import { choices, filters } from "../filters.ts";
import { count, noun, time, timeOr, words } from "../format.ts";
import { empty, panel, problemBox } from "../panel.ts";
import { actButton, id, named, readOnlyNote, state, tenant, title } from "../parts.ts";
import { code, col, facts, paged, table, type Column } from "../table.ts";
import type { DeadLetter, DeadLetterGroup, DeadLetters, Retried } from "../types.ts";
import type { Visit } from "../visit.ts";

const PATH = "/api/v1/admin/dead-letters";

const MEANS: Record<string, string> = {
  malformed: "not one JSON object as the contract wants it",
  invalid_field: "a field is missing, of the wrong type, or out of range",
  subject_mismatch: "payload and subject disagree on tenant or agent",
  unknown_agent: "the agent is not in the catalogue",
  unknown_action: "the action is not one of the agent's",
  too_old: "occurred more than 90 days before it was stored",
  in_future: "occurred more than 5 minutes after it was stored",
  idempotency_conflict: "the key belongs to an event with other content",
  no_billing_period: "occurred in no billing period that could take it",
  negative_balance: "a correction that would bring the count below zero",
};

export function deadLettersPage(visit: Visit): Child {
  return [title("Dead letters"), deadLettersPanels(visit, null)];
}

/** deadLettersPanels are those of one tenant, or of all. */
export function deadLettersPanels(visit: Visit, tenantId: string | null): Child {
  const filter = filters(
    visit,
    [
      { name: "reason", label: "Reason", options: choices("Any", Object.keys(MEANS)) },
      {
        name: "state",
        label: "State",
        options: choices("Open", ["retried", "duplicate", "discarded", "all"]),
      },
    ],
    () => void letters.load(true),
  );
  const fetchPage = (cursor: string | null, signal: AbortSignal): Promise<DeadLetters> =>
    visit.api.get<DeadLetters>(
      PATH,
      {
        state: filter.value("state") || "open",
        reason: filter.value("reason"),
        tenant_id: tenantId,
        limit: 50,
        cursor,
      },
      signal,
    );
  // Both panels come from one answer shape, but the groups are always those of
  // what is open: that is what there is to do.
  const groups = panel(visit, {
    title: "Open, by reason",
    lines: 4,
    load: (signal) =>
      visit.api.get<DeadLetters>(PATH, { state: "open", tenant_id: tenantId, limit: 1 }, signal),
    render: (d) => drawGroups(visit, tenantId, d.groups, reload),
  });
  const letters = panel(visit, {
    title: "Matching dead letters",
    lines: 8,
    tools: filter.element,
    load: (signal) => fetchPage(null, signal),
    render: (first) => drawLetters(visit, first, (cursor) => fetchPage(cursor, visit.signal), reload),
  });
  const reload = (): void => (void groups.load(), void letters.load());
  return [readOnlyNote(visit), groups.element, letters.element];
}

const LISTED = 20; // of what is still open after a retry

interface ByReason {
  reason: string;
  count: number;
  tenants: number;
  oldest: string;
  newest: string;
}

function drawGroups(
  visit: Visit,
  tenantId: string | null,
  groups: DeadLetterGroup[],
  reload: () => void,
): Child {
  const reasons = byReason(groups.filter((g) => g.state === "open"));
  if (reasons.length === 0)
    return empty("Nothing is open: every message that was read is an event or a repeat of one.");
  const columns: Column<ByReason>[] = [
    col("Reason", (g) => named(g.reason, MEANS[g.reason]), "wide"),
    col("Dead letters", (g) => count(g.count), "number"),
    col("Tenants", (g) => count(g.tenants), "number"),
    col("Oldest", (g) => time(g.oldest)),
    col("Newest", (g) => time(g.newest)),
  ];
  // The API retries a reason of all tenants, or one tenant's letters of all reasons.
  if (!tenantId)
    columns.push(
      col("Act", (g) => retryButton(visit, g.count, words(g.reason), { reason: g.reason }, reload), "acts"),
    );
  const open = reasons.reduce((sum, g) => sum + g.count, 0);
  return [
    table({ caption: "Open dead letters by reason", columns }, reasons).element,
    tenantId &&
      h("p", { class: "pager" }, retryButton(visit, open, "of this tenant", { tenant_id: tenantId }, reload)),
  ];
}

function byReason(groups: DeadLetterGroup[]): ByReason[] {
  const reasons = new Map<string, ByReason>();
  for (const g of groups) {
    const known = reasons.get(g.reason);
    reasons.set(g.reason, {
      reason: g.reason,
      count: g.count + (known?.count ?? 0),
      tenants: 1 + (known?.tenants ?? 0),
      oldest: known && known.oldest < g.oldest ? known.oldest : g.oldest,
      newest: known && known.newest > g.newest ? known.newest : g.newest,
    });
  }
  return [...reasons.values()].sort((a, b) => b.count - a.count);
}

function drawLetters(
  visit: Visit,
  first: DeadLetters,
  fetchPage: (cursor: string) => Promise<DeadLetters>,
  reload: () => void,
): Child {
  if (first.letters.length === 0) return empty("No dead letter matches the filter.");
  const list = paged<DeadLetter, DeadLetters>(visit, {
    caption: "Dead letters, newest first",
    columns: [
      col("Received", (l) => time(l.received_at)),
      col("Id", (l) => h("span", { class: "id whole" }, l.id)),
      col("Tenant", (l) => tenant(visit, l.tenant_id)),
      col("Agent", (l) => l.agent ?? muted("none")),
      col("Reason", (l) => named(l.reason, l.detail), "wide"),
      col("State", (l) => state(l.state)),
      col("Act", (l) => l.state === "open" && retryButton(visit, 1, l.id, { ids: [l.id] }, reload), "acts"),
    ],
    detail: (l) => letterDetail(visit, l),
    first,
    fetchPage,
    rows: (page) => page.letters,
    word: "dead letter",
  });
  return [h("p", { class: "lead" }, noun(first.total, "dead letter")), list];
}

function letterDetail(visit: Visit, l: DeadLetter): Child {
  const payload = h("div", { class: "payload" }, payloadOf(l));
  const whole = h("button", { type: "button" }, "Show all of it");
  whole.addEventListener("click", async () => {
    whole.disabled = true;
    try {
      const { letters } = await visit.api.get<DeadLetters>(PATH, { id: l.id }, visit.signal);
      fill(payload, letters.map(payloadOf));
      whole.remove();
    } catch (error) {
      if (!visit.signal.aborted)
        fill(
          payload,
          problemBox(error, visit.signal, () => whole.click()),
        );
      whole.disabled = false;
    }
  });
  return [
    facts([
      ["Subject", id(l.subject)],
      ["Received", l.received_at],
      [
        "Decided",
        l.decided_at
          ? [time(l.decided_at), l.decided_by && ` by ${l.decided_by}`, l.why && `: ${l.why}`]
          : timeOr(null, "Not yet"),
      ],
      ["Payload", `${count(l.payload_bytes)} bytes`],
    ]),
    payload,
    l.truncated && whole,
  ];
}

function payloadOf(l: DeadLetter): Child {
  const headers = Object.entries(l.headers);
  return [
    headers.length > 0 &&
      code(headers.flatMap(([name, values]) => values.map((v) => `${name}: ${v}`)).join("\n")),
    l.payload === null &&
      h("p", { class: "note" }, "The payload is no harmless text. These are its bytes in base64:"),
    code(l.payload ?? l.payload_base64),
  ];
}

type Which = { ids: string[] } | { reason: string } | { tenant_id: string };

function retryButton(visit: Visit, n: number, about: string, which: Which, reload: () => void): Child {
  return actButton(visit, n === 1 ? "Retry" : `Retry ${count(n)}`, about, () => {
    void ask({
      title: "ids" in which ? `Retry dead letter ${which.ids[0]}` : `Retry ${noun(n, "dead letter")}`,
      says: h(
        "p",
        null,
        "Each is classified again by the current catalogue and subscriptions. A valid one counts once; any other stays open with its reason.",
      ),
      verb: "Retry",
      act: (_, signal) => retry(visit, which, signal),
    }).then((tried) => tried && reload());
  });
}

// One call retries a bounded number; the cursor continues with the rest.
async function retry(visit: Visit, which: Which, signal: AbortSignal): Promise<Child> {
  const counts = new Map<string, number>();
  const open: Retried["letters"] = [];
  let cursor: string | null = null;
  do {
    const r: Retried = await visit.api.post<Retried>(
      `${PATH}/retry`,
      cursor ? { ...which, cursor } : which,
      signal,
    );
    for (const [name, n] of Object.entries(r.counts)) counts.set(name, n + (counts.get(name) ?? 0));
    open.push(...r.letters.filter((l) => l.state === "open"));
    cursor = r.next_cursor;
  } while (cursor);
  return outcome(
    [...counts].filter(([, n]) => n > 0),
    open,
  );
}

function outcome(counts: [string, number][], open: Retried["letters"]): Child {
  if (counts.length === 0) return h("p", null, "There was nothing left to retry.");
  return [
    list(
      "totals",
      counts.map(([name, n]) => [state(name), h("b", null, count(n))]),
    ),
    open.length > 0 && h("p", { class: "muted" }, "Still open:"),
    list(
      "outcome",
      open.slice(0, LISTED).map((l) => [id(l.id), ` ${words(l.reason)}: ${l.detail}`]),
    ),
    open.length > LISTED && h("p", { class: "muted" }, `and ${count(open.length - LISTED)} more`),
  ];
}
