// A visit is one look at one page: it ends when the reader goes elsewhere, and
// with it everything that the page was still fetching.

import type { Api } from "./api.ts";

export interface Visit {
  api: Api;
  /** mayWrite is whether the token has the scope for acts. */
  mayWrite: boolean;
  /** freshToken is what embedded elements authenticate with. */
  freshToken: () => Promise<string>;
  /** names of tenants by id, as far as the sessions have them. */
  names: ReadonlyMap<string, string>;
  /** path is what the address names after "#/", in parts. */
  path: string[];
  /** query is the page's filters; remember writes them into the address. */
  query: URLSearchParams;
  remember: () => void;
  signal: AbortSignal;
}

/** readAddress takes a page's path and filters from the address. */
export function readAddress(): Pick<Visit, "path" | "query" | "remember"> {
  const [path = "", search] = location.hash.replace(/^#\/?/, "").split("?");
  const query = new URLSearchParams(search);
  const remember = (): void =>
    history.replaceState(null, "", `#/${path}${query.size > 0 ? `?${query}` : ""}`);
  return { path: path.split("/").filter(Boolean), query, remember };
}

/** href is the address of a page. */
export const href = (path: string): string => `#/${path}`;

/** repeat calls again and again, with a pause that each call decides, and rests while the tab is hidden. */
export function repeat(signal: AbortSignal, call: () => Promise<number>): void {
  let timer = 0;
  let running = false;
  const step = async (): Promise<void> => {
    if (running || signal.aborted || document.hidden) return;
    clearTimeout(timer);
    running = true;
    const pause = await call();
    running = false;
    if (!signal.aborted) timer = window.setTimeout(step, pause);
  };
  document.addEventListener("visibilitychange", step, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  void step();
}
