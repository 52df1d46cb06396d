import { drawHistory } from "./chart.ts";
import type { History } from "./history.ts";
import { element } from "./parts.ts";

const days = 30;
const again = 30_000; // ms until a history that could not be read again is asked for once more

/** Asks the service with the widget's token. */
export type Ask = (path: string) => Promise<Response>;

const panels = new WeakMap<HTMLElement, () => void>();

/**
 * Opens the history under the widget's button, or closes it. The panel is a
 * shadow root of its own, so that the widget's few rules, which go by element
 * names, do not reach into the chart.
 */
export async function toggle(section: HTMLElement, ask: Ask): Promise<void> {
  const close = panels.get(section);
  if (close) return close();
  const button = section.querySelector("button")!;
  const host = element("section", { ariaLabel: "History", ariaBusy: "true" });
  host.style.marginBlockStart = "1em";
  const body = element("div", {}, element("p", { role: "status" }, "Loading…"));
  host.attachShadow({ mode: "open" }).append(body);
  section.append(host);
  button.ariaExpanded = "true";

  const shown = new Shown(section, body, ask);
  // The widget takes the panel away when its figures are another tenant's.
  const removed = new MutationObserver(() => host.parentNode || panels.get(section)!());
  removed.observe(section, { childList: true });
  panels.set(section, () => {
    removed.disconnect();
    shown.stop();
    host.remove();
    button.ariaExpanded = "false";
    panels.delete(section);
  });
  await shown.load();
  host.ariaBusy = "false";
}

/** The history in an open panel, which keeps up with the widget's figures. */
class Shown {
  private readonly figures: MutationObserver;
  private erase: (() => void) | undefined;
  private drawn = ""; // the buckets that are drawn
  private retry = 0;
  private asked = 0; // how often
  private open = true;

  constructor(
    private readonly section: HTMLElement,
    private readonly body: HTMLElement,
    private readonly ask: Ask,
  ) {
    // The widget changes its rows only where the figures have changed.
    this.figures = new MutationObserver(() => this.load());
    this.figures.observe(section.parentNode!, { childList: true });
  }

  async load(): Promise<void> {
    clearTimeout(this.retry);
    if (!this.section.isConnected) return; // the widget has no figures now
    const turn = ++this.asked;
    const answer = await history(this.ask);
    if (!this.open || turn != this.asked) return;
    if (typeof answer != "string") return this.draw(answer);
    // What is drawn stays; the widget shows failures that last.
    if (this.erase) this.loadLater();
    else this.body.replaceChildren(element("p", { role: "alert" }, answer));
  }

  private loadLater(): void {
    this.retry = window.setTimeout(() => (document.hidden ? this.loadLater() : this.load()), again);
  }

  stop(): void {
    this.open = false;
    clearTimeout(this.retry);
    this.figures.disconnect();
    this.erase?.();
  }

  private draw(answer: History): void {
    const buckets = JSON.stringify(answer.buckets);
    if (buckets == this.drawn) return; // keeps the reader's position in the table
    this.drawn = buckets;
    this.erase = drawHistory(this.body, answer, { ...languageOf(this.section), caption: `Usage by day, the last ${days} days` });
    if (answer.complete_from) this.body.append(element("p", {}, "Earlier days are no longer kept in full."));
  }
}

/** The last days by agent, or why they cannot be shown. */
async function history(ask: Ask): Promise<History | string> {
  const query = new URLSearchParams({
    window: "day",
    group_by: "agent",
    from: new Date(Date.now() - (days - 1) * 86_400_000).toISOString(),
    timezone: new Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC",
  });
  try {
    const answer = await ask(`usage/history?${query}`);
    const body = await answer.json();
    return answer.ok ? body : (body.detail ?? "History unavailable");
  } catch {
    return "History unavailable";
  }
}

/** The language around the widget, where it is one. */
function languageOf(section: HTMLElement): { locale?: Intl.Locale } {
  const widget = (section.getRootNode() as ShadowRoot).host;
  try {
    return { locale: new Intl.Locale(widget.closest<HTMLElement>("[lang]")!.lang) };
  } catch {
    return {};
  }
}
