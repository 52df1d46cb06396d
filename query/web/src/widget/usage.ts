/**
 * <odometer-usage>: what a customer has used of what, in the customer's own
 * page. One script tag and a token are all it takes:
 *
 *   <script type="module" src="https://usage.example.com/odometer-usage.js"></script>
 *   <odometer-usage token="…"></odometer-usage>
 *
 *   token      attribute or property: a JSON Web Token with the scope usage:read
 *   getToken   property, () => Promise<string>: fetches a token; asked at the
 *              start if there is none, and once when one is refused
 *              (without either for some seconds, the widget says so)
 *   api        attribute: the service's origin, where that is not the script's
 *   lang       attribute, of the element or above it: how numbers are written
 *
 *   odometer-token-expired   event that bubbles: no token is accepted any more;
 *                            the widget waits for another one
 *
 * usage.css lists the custom properties that theme it.
 *
 * Everything here is at most 2 kB gzip, styles and texts included; a test holds
 * it to that, and it is why this is one function, why properties are looked at
 * each second instead of being watched, and why If-None-Match and 304 are left
 * to the browser's cache, which asks the service each time, by its headers.
 * What the service answers becomes text and attributes, never markup.
 */
import css from "./usage.css";

interface Usage {
  tenant_id: string;
  period_start: string;
  period_end: string;
  plan: { name: string } | null; // null: a trial without one
  usage: Record<
    string,
    {
      count: number;
      limit: number | null; // 0: not included; null: unlimited
      percentage: number;
      overage: number;
      overage_cost_cents: number;
    }
  >;
  total_overage_cost_cents: number;
  currency: string;
  alerts: { agent: string; level: "warning" | "error"; message: string }[];
}

interface Period {
  period_end: string;
  usage: Record<string, { count: number }>;
}

const sheet = new CSSStyleSheet();
sheet.replaceSync(css);

const element = <K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]>,
  ...content: (Node | string)[]
): HTMLElementTagNameMap[K] => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...content);
  return made;
};

class OdometerUsage extends HTMLElement {
  declare token: string | undefined;
  declare getToken: (() => Promise<string>) | undefined;
  declare look: (() => void) | undefined;

  connectedCallback() {
    if (this.look) return this.look(); // it was moved

    let given: string | null | undefined | 0 = 0; // the page's token, as last looked at
    let token: string | null | void; // the one in use
    let data: Usage | 0 | undefined;
    let now: number; // the newest moment that data is true of
    let failure: string | 0;
    let seen: string; // the tenant and period that banners, last and the open history are of
    let banners: Record<string, HTMLElement | 0>; // 0: dismissed
    let last: Period | 0 | undefined;
    let due = 0; // when to ask again
    let timer = 0;
    let vain = 0; // looks for a token; a page may set it some time after the element is there

    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet];

    const ask = async (path: string, again = !token): Promise<Response> => {
      if (again) token = await this.getToken?.();
      const answer = await fetch(new URL("/api/v1/" + path, this.getAttribute("api") || import.meta.url), {
        headers: { Authorization: "Bearer " + token },
        signal: AbortSignal.timeout(15e3),
      });
      return answer.status != 401 || again || !this.getToken ? answer : ask(path, true);
    };

    const open = () =>
      import("odometer-chart").then(
        (chart) => chart.toggle(history, ask),
        () => history.append(" unavailable"),
      );
    const more = element("button", { onclick: open }, "History");
    const history = element("section", {}, more);

    const draw = () => {
      const children: Element[] = [];
      // An output is a live region that waits its turn (role status).
      const add = (tag: "div" | "output", className: string, ...content: (Node | string)[]) =>
        children.push(element(tag, { className }, ...content));
      const stale = !data || Date.now() - now > 120_000;

      // A failure while the numbers are fresh is no news yet.
      if (failure && stale)
        children.push(element("output", { className: "error", role: "alert" }, failure, element("button", { onclick: again }, "Retry")));
      else if (!data) add("output", "", vain > 4 ? "Token missing" : "Loading");

      if (data) {
        let locale: Intl.Locale;
        try {
          locale = new Intl.Locale(this.closest<HTMLElement>("[lang]")!.lang);
        } catch {} // none, or not a language: the browser's
        const format = (value: number, style?: "percent" | "currency") =>
          value.toLocaleString(locale, { style: style!, currency: (data as Usage).currency });
        let total = 0;

        add("div", "", element("b", {}, data.plan?.name ?? "Trial"), stale ? "As of " + new Date(now).toLocaleString(locale!) : "");

        for (const alert of data.alerts) {
          // What it says without its numbers: another percent is not another
          // alert, and a button that has the focus keeps it.
          const key = alert.agent + alert.message.replace(/\d/g, "");
          const dismiss = () => {
            banners[key] = 0;
            draw();
            more.focus();
          };
          const banner = (banners[key] ??= element("output", { className: alert.level }, "", element("button", { onclick: dismiss }, "Dismiss")));
          if (banner) {
            if ((banner.firstChild as Text).data != alert.message) (banner.firstChild as Text).data = alert.message;
            children.push(banner);
          }
        }

        for (const agent in data.usage) {
          const { count, limit, percentage, overage, overage_cost_cents } = data.usage[agent]!;
          const toLimit = ((limit! - count) / count) * (now - +new Date(data.period_start)); // ms, at the pace so far
          total += count;
          add(
            "div",
            percentage < 80 ? "" : percentage < 100 ? "warning" : "error",
            element("b", {}, agent.replace(/_/g, " ")),
            format(count) + (limit ? " of " + format(limit) : ""),
            limit || percentage ? element("progress", { value: percentage / 100, ariaLabel: agent }) : "",
            element(
              "small",
              {},
              limit ? format(percentage / 100, "percent") : limit == 0 ? "not included" : "unlimited",
              overage ? " · " + format(overage) + " over: " + format(overage_cost_cents / 100, "currency") : "",
              last ? " · last period " + format(last.usage[agent]?.count ?? 0) : "",
              toLimit > 0 && now + toLimit < +new Date(data.period_end) ? " · days until limit: " + format(Math.ceil(toLimit / 86_400_000)) : "",
            ),
          );
        }
        if (!total) add("output", "", "No usage this period yet");

        add("div", "", element("b", {}, "Estimated overage"), format(data.total_overage_cost_cents / 100, "currency"));
        children.push(history);
      }

      // Only what differs is changed: focus stays, and nothing is read out twice.
      [...root.children].map((old) => children.some((child) => old.isEqualNode(child)) || old.remove());
      children.map((child, i) => child.isEqualNode(root.children[i]!) || root.insertBefore(child, root.children[i]!));
    };

    const again = () => {
      failure = due = vain = 0;
      draw();
    };

    const look = async (): Promise<void> => {
      clearTimeout(timer);
      if (!this.isConnected) return;
      if (document.hidden) return document.addEventListener("visibilitychange", look, { once: true });
      timer = setTimeout(look, 1000);

      const wanted = this.token || this.getAttribute("token");
      if (wanted != given) {
        token = given = wanted;
        data = 0; // it may be another tenant's
        again();
      }
      if (Date.now() < due) return;
      if (!token && !this.getToken) {
        vain++;
        return draw();
      }

      due = Date.now() + 30_000; // should there never be an answer
      let answer: Response | undefined;
      let body;
      try {
        body = await (answer = await ask("usage")).json();
      } catch {} // no answer, or not the service's
      if (wanted != given) return;

      failure = 0;
      if (body?.usage) {
        data = body as Usage;
        now = +new Date(answer!.headers.get("Odometer-As-Of")!); // as_of may be the cache's
      } else {
        failure = body?.detail ?? "Usage unavailable";
        if (body?.status < 429) data = 0; // an answer that was cut off refuses nothing
      }
      if (answer?.status == 401) {
        failure = "Session expired";
        due = Infinity;
        this.dispatchEvent(new Event("odometer-token-expired", { bubbles: true }));
      } else due = Date.now() + 1000 * (+answer?.headers.get("Retry-After")! || 30);
      if (data && seen != (seen = data.tenant_id + data.period_start)) {
        banners = {};
        last = 0;
        history.replaceChildren(more);
        draw();
        try {
          body = await (await ask("periods?limit=2")).json();
          if (wanted == given) last = (body.periods as Period[]).find((period) => period.period_end <= (data as Usage).period_start);
        } catch {} // it is left out
      }
      draw();
    };

    (this.look = look)();
  }
}

try {
  customElements.define("odometer-usage", OdometerUsage);
} catch {} // the page has the script twice
