// The small things that many pages show: a state, a bar, a tenant, a button that acts.

import { h, muted, strong, type Child } from "./dom.ts";
import { count, money, percent, price, sentence, words } from "./format.ts";
import { col, table, type Column } from "./table.ts";
import type { AgentUsage, Terms } from "./types.ts";
import { href, type Visit } from "./visit.ts";

export type Tone = "good" | "warn" | "bad" | "calm";

/** chip is a state: its colour only repeats what its word says. */
export function chip(tone: Tone, text: string): HTMLElement {
  return h("span", { class: `chip ${tone}` }, text);
}

const TONES: Record<string, Tone> = {
  active: "good",
  trial: "calm",
  past_due: "warn",
  canceled: "bad",
  expired: "bad",
  open: "warn",
  retried: "good",
  accepted: "good",
  verified: "good",
  unknown: "warn",
  rejected: "bad",
  unbillable: "bad",
  warning: "warn",
  error: "bad",
};

/** state is a chip for the states that the API names. */
export const state = (name: string): HTMLElement => chip(TONES[name] ?? "calm", sentence(words(name)));

/** toneOf is green, yellow from 80 % and red from 100 %. */
const toneOf = (u: { percentage: number; limit: number | null }): Tone =>
  u.limit === null ? "calm" : u.percentage >= 100 ? "bad" : u.percentage >= 80 ? "warn" : "good";

/** lacksPlan is whether usage is counted and nothing says what it means: neither a plan nor a trial. */
export const lacksPlan = (t: Terms): boolean => t.plan === null && !t.trial;

/** planOf names what a period's usage is judged by. */
export const planOf = (t: Terms): Child =>
  lacksPlan(t) ? chip("warn", "No plan") : (t.plan?.name ?? muted("Trial"));

/** usageOf says what is used of what: "425 of 500", "12, not included". */
export function usageOf(u: { count: number; limit: number | null }, terms?: Terms): string {
  if (u.limit === null) return `${count(u.count)}, ${terms && lacksPlan(terms) ? "no plan" : "unlimited"}`;
  if (u.limit === 0) return u.count === 0 ? "Not included" : `${count(u.count)}, not included`;
  return `${count(u.count)} of ${count(u.limit)}`;
}

/** bar draws a share of a limit. What it shows is said beside it in words. */
export function bar(u: { percentage: number; limit: number | null }): HTMLElement {
  const filled = h("span");
  filled.style.width = `${u.limit === null ? 0 : Math.min(100, Math.max(0, u.percentage))}%`;
  return h("span", { class: `bar ${toneOf(u)}`, "aria-hidden": "true" }, filled);
}

/** Used is usage by agent, and what it is judged by. */
type Used = Terms & { usage: Record<string, AgentUsage>; total_overage_cost_cents: number };

/** meters are a tenant's agents, one line each. */
export function meters(used: Used): HTMLElement {
  const lines = Object.entries(used.usage).map(([agent, u]) =>
    h(
      "li",
      null,
      h("span", { class: "meter-name" }, agent),
      bar(u),
      h("span", { class: "meter-count" }, usageOf(u, used)),
    ),
  );
  return h("ul", { class: "meters" }, lines);
}

/** named is what a row is about, and what that means. */
export const named = (name: string, means: Child): Child => [
  strong(sentence(words(name))),
  h("span", { class: "means" }, means),
];

/** sumOf says that what was read of the stream adds up. */
export function sumOf(s: {
  messages: number;
  events: number;
  duplicates: number;
  dead_letters: number;
}): Child {
  // Lines break at the signs only.
  const part = (value: number, name: string): Child =>
    h("span", { class: "whole" }, h("b", null, count(value)), ` ${name}`);
  return [
    [part(s.messages, "messages"), " = "],
    [part(s.events, "events"), " + "],
    [part(s.duplicates, "duplicates"), " + "],
    part(s.dead_letters, "dead letters"),
  ];
}

/** usageTable is a tenant's agents in a period, with what their overage costs. */
export function usageTable(used: Used, currency: string): Child {
  const columns: Column<[string, AgentUsage]>[] = [
    col("Agent", ([agent]) => agent),
    col("Used", ([, u]) => h("span", { class: "used" }, usageOf(u, used), bar(u)), "wide"),
    col("Share", ([, u]) => (u.limit === null ? "–" : percent(u.percentage)), "number"),
    col("Overage", ([, u]) => count(u.overage), "number"),
    col("Unit price", ([, u]) => price(u.unit_price ?? "", currency), "number"),
    col("Cost", ([, u]) => overageCost(u.overage_cost_cents, currency), "number"),
  ];
  const agents = Object.entries(used.usage);
  const priced = agents.some(([, u]) => u.unit_price);
  return [
    table(
      { caption: "Usage by agent", columns: columns.filter((c) => priced || c.head !== "Unit price") },
      agents,
    ).element,
    h("p", { class: "total" }, "Overage in all ", strong(money(used.total_overage_cost_cents, currency))),
  ];
}

/** overageCost is money, quiet when there is none to pay. */
export const overageCost = (cents: number, currency: string): Child =>
  h("span", { class: cents > 0 ? "strong" : "muted" }, money(cents, currency));

/** shortId is enough of a UUID to distinguish two. */
const shortId = (id: string): string => `${id.slice(0, 8)}…${id.slice(-4)}`;

/** tenant leads to a tenant's page, by name where it has one. */
export function tenant(visit: Visit, id: string | null): Child {
  if (!id) return muted("none");
  const name = visit.names.get(id);
  return h(
    "a",
    { href: href(`tenants/${id}`), title: id },
    name && [h("span", { class: "whole" }, name), " "],
    h("span", { class: name ? "id whole muted" : "id whole" }, shortId(id)),
  );
}

/** id is an identifier, in a monospaced font. */
export const id = (text: string): HTMLElement => h("span", { class: "id" }, text);

const NEEDS_WRITE = "This token may only read: acting needs the scope usage:write.";

/** actButton is a button that changes something; without the right to, it says so. */
export function actButton(visit: Visit, label: string, about: string, act: () => void): HTMLElement {
  const { mayWrite } = visit;
  const title = mayWrite ? null : NEEDS_WRITE;
  return h(
    "button",
    { type: "button", disabled: !mayWrite, title, "aria-label": `${label} ${about}`, onclick: act },
    label,
  );
}

/** readOnlyNote says on the page why its buttons are dead. */
export const readOnlyNote = (visit: Visit): Child =>
  !visit.mayWrite && h("p", { class: "note" }, NEEDS_WRITE);

/** title is a page's heading, with what belongs beside it. */
export function title(text: Child, ...beside: Child[]): HTMLElement {
  return h("div", { class: "page-head" }, h("h1", { tabindex: -1 }, text), ...beside);
}
