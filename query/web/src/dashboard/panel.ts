// A panel is a part of a page that has its own data: it loads, is empty, fails
// and is tried again without regard to the others.

import { Problem } from "./api.ts";
import { announce, fill, h, icon, newId, strong, type Child } from "./dom.ts";
import { ago, now, time } from "./format.ts";
import type { Instant } from "./types.ts";
import { repeat, type Visit } from "./visit.ts";

export interface PanelOptions<T> {
  title: string;
  load: (signal: AbortSignal) => Promise<T>;
  render: (data: T) => Child;
  /** lines that the skeleton has, so that the page hardly moves when data comes */
  lines?: number;
  /** ms after which it is read again, while nobody is at it */
  every?: number;
  /** whether the widget is on the same page, which shows why a tenant is refused */
  besideWidget?: boolean;
  /** what the data is, in a sentence or two */
  note?: string;
  /** filters and buttons above the data */
  tools?: Child;
}

export interface Panel {
  element: HTMLElement;
  /** load fetches again. With other filters what is shown is of no use if that fails. */
  load: (filtersChanged?: boolean) => Promise<void>;
}

// An answer that is older than this says so in colour.
const STALE_SECONDS = 60;

export function panel<T>(visit: Visit, o: PanelOptions<T>): Panel {
  const heading = h("h2", { id: newId(), tabindex: -1 }, o.title);
  const asOf = h("span", { class: "as-of" });
  const refresh = h(
    "button",
    { type: "button", class: "quiet", "aria-label": `Refresh ${o.title}`, onclick: () => load() },
    icon("refresh"),
  );
  const notice = h("div", { role: "status" });
  const body = h("div", { class: "panel-body" });
  const element = h(
    "section",
    { class: "panel", "aria-labelledby": heading.id },
    h("div", { class: "panel-head" }, heading, asOf, refresh),
    o.note && h("p", { class: "note" }, o.note),
    o.tools && h("div", { class: "toolbar" }, o.tools),
    notice,
    body,
  );

  let shown = false;
  let outdated = false; // what is shown is of other filters
  let running: AbortController | undefined;

  async function load(filtersChanged = false): Promise<void> {
    running?.abort();
    running = new AbortController();
    const signal = AbortSignal.any([visit.signal, running.signal]);
    outdated ||= filtersChanged;
    element.classList.toggle("outdated", outdated);
    element.setAttribute("aria-busy", "true");
    if (!shown) fill(body, skeleton(o.lines ?? 3));
    try {
      const data = await o.load(signal);
      if (signal.aborted) return;
      const hadFocus = body.contains(document.activeElement);
      fill(body, o.render(data));
      element.hidden = false;
      if (hadFocus) heading.focus(); // what had it is gone
      fill(notice);
      fill(asOf, knownAsOf(data));
      if (outdated) announce(`${o.title}: updated`);
      shown = true;
    } catch (error) {
      if (signal.aborted) return;
      element.hidden = o.besideWidget === true && error instanceof Problem && error.refusesTenant;
      if (outdated || !shown) {
        shown = false;
        fill(body);
        fill(asOf);
      }
      fill(
        notice,
        !element.hidden && problemBox(error, signal, () => load(!shown), shown),
      );
    }
    outdated = false;
    element.classList.remove("outdated");
    element.removeAttribute("aria-busy");
  }
  const { every } = o;
  // Nothing is taken away from under a reader's hands, or closed again.
  const inUse = (): boolean =>
    body.matches(":hover, :focus-within") ||
    body.querySelector("details[open], [aria-expanded=true]") !== null;
  if (every === undefined) void load();
  else
    repeat(visit.signal, async () => {
      if (!shown || !inUse()) await load();
      return every;
    });
  return { element, load };
}

// knownAsOf shows until when the data is complete, where the answer has it;
// else when it was read.
function knownAsOf(data: unknown): Child {
  const at = (data as { as_of?: Instant | null } | null)?.as_of;
  if (!at) return ["read at ", time(new Date(now()).toISOString())];
  const old = now() - Date.parse(at) > STALE_SECONDS * 1000;
  return h("span", { class: old ? "warn" : "" }, "as of ", time(at), old && ` (${ago(at)})`);
}

export function skeleton(lines: number): HTMLElement {
  const rows = Array.from({ length: lines }, () => h("div", { class: "skeleton" }));
  return h("div", { class: "skeletons" }, h("span", { class: "unseen" }, "Loading…"), rows);
}

/** empty is what a panel shows when there is nothing: a sentence that helps. */
export function empty(...said: Child[]): HTMLElement {
  return h("p", { class: "empty" }, ...said);
}

/**
 * problemBox says what went wrong and offers to try again. When the server says
 * after how long, it is tried then without being asked.
 */
export function problemBox(
  error: unknown,
  signal: AbortSignal,
  retry: () => void,
  stale = false,
): HTMLElement {
  const problem =
    error instanceof Problem ? error : new Problem(0, "This page has a fault", String(error), null);
  const countdown = h("span", { class: "muted", "aria-live": "off" });
  const box = h(
    "div",
    { class: stale ? "problem stale" : "problem" },
    h("p", null, strong(problem.title), ": ", problem.message, stale && " What is below was read before."),
    h(
      "p",
      { class: "problem-acts" },
      h("button", { type: "button", onclick: () => retry() }, stale ? "Refresh" : "Retry"),
      countdown,
    ),
  );
  if (problem.retryAfter !== null) countDown(problem.retryAfter, countdown, signal, retry);
  return box;
}

function countDown(seconds: number, says: HTMLElement, signal: AbortSignal, done: () => void): void {
  let left = Math.ceil(seconds);
  const tick = (): void => {
    if (signal.aborted || (left < seconds && !says.isConnected)) return;
    if (left <= 0) return done();
    says.textContent = `Trying again in ${left} s`;
    left--;
    window.setTimeout(tick, 1000);
  };
  tick();
}
