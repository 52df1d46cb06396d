import { drawHistory } from "./chart.ts";
import type { History } from "./history.ts";
import { element } from "./parts.ts";

const days = 30;

/** Asks the service with the widget's token. */
export type Ask = (path: string) => Promise<Response>;

const panels = new WeakMap<HTMLElement, () => void>();

/**
 * Opens the history under the widget's button, or closes it. The panel is a
 * shadow root of its own, so that the widget's few rules, which go by element
 * names, do not reach into the chart.
 */
export async function toggle(section: HTMLElement, ask: Ask): Promise<void> {
  const button = section.querySelector("button")!;
  const close = panels.get(section);
  if (close) {
    close();
    return;
  }
  const host = element("section", { ariaLabel: "History", ariaBusy: "true" });
  host.style.marginBlockStart = "1em";
  const body = element("div");
  host.attachShadow({ mode: "open" }).append(body);
  section.append(host);
  button.ariaExpanded = "true";

  let stop = () => {};
  let open = true;
  // The widget takes the panel away when its figures are another tenant's.
  const removed = new MutationObserver(() => host.parentNode || panels.get(section)!());
  removed.observe(section, { childList: true });
  panels.set(section, () => {
    open = false;
    removed.disconnect();
    stop();
    host.remove();
    button.ariaExpanded = "false";
    panels.delete(section);
  });

  body.append(element("p", { role: "status" }, "Loading…"));
  const answer = await history(ask);
  if (!open) return;
  host.ariaBusy = "false";
  if (typeof answer == "string") {
    body.replaceChildren(element("p", { role: "alert" }, answer));
    return;
  }
  stop = drawHistory(body, answer, { ...languageOf(section), caption: `Usage by day, the last ${days} days` });
  if (answer.complete_from) body.append(element("p", {}, "Earlier days are no longer kept in full."));
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
