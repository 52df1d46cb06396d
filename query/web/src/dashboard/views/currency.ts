// The currency of the catalogue. The answers about tenants give amounts without
// it; the overview has it, once for all pages of a session.

import type { Api } from "../api.ts";
import type { Overview } from "../types.ts";

const known = new WeakMap<Api, Promise<string>>();

export function currencyOf(api: Api): Promise<string> {
  let asked = known.get(api);
  if (!asked) {
    // It outlives the page that asks first.
    asked = api
      .get<Overview>("/api/v1/admin/overview", {}, new AbortController().signal)
      .then((o) => o.currency);
    asked.catch(() => known.delete(api));
    known.set(api, asked);
  }
  return asked;
}
