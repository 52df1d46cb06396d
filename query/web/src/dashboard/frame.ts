// The frame of every page: the name, the session, and the navigation.

import { fill, h, list, newId, svg } from "./dom.ts";
import { pagesOf, type Page } from "./pages.ts";
import { isDemo, type Session } from "./sessions.ts";
import { href } from "./visit.ts";

export interface Frame {
  elements: HTMLElement[];
  main: HTMLElement;
  links: Map<Page, HTMLElement>;
}

export function frame(
  session: Session,
  sessions: Session[],
  changeTo: (other: Session) => void,
  signOut: () => void,
): Frame {
  const main = h("main", { tabindex: -1 });
  const links = new Map(pagesOf(session.role).map((p) => [p, h("a", { href: href(p.path) }, p.label)]));
  const elements = [
    // The address names the page, so that an anchor is not for jumping to.
    h("button", { type: "button", class: "skip", onclick: () => main.focus() }, "Skip to content"),
    h(
      "header",
      { class: "top" },
      brand(),
      isDemo ? switcher(session, sessions, changeTo) : whoAndOut(session, signOut),
    ),
    h(
      "nav",
      { class: "side", "aria-label": "Pages" },
      list(null, [...links.values()]),
      h("p", { class: "side-foot" }, h("a", { href: "/docs" }, "API documentation")),
    ),
    main,
  ];
  return { elements, main, links };
}

export function markCurrent(f: Frame, current: Page): void {
  for (const [page, link] of f.links) {
    if (page === current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  // On a narrow screen the ways to go are a strip that may have to be moved.
  f.links.get(current)?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

const brand = (): HTMLElement => h("a", { class: "brand", href: href("") }, dial(), "Odometer");

function dial(): SVGElement {
  return svg(
    "svg",
    { class: "logo", viewBox: "0 0 32 32", "aria-hidden": "true" },
    svg("path", { class: "logo-dial", d: "M6.8 25.2a13 13 0 1 1 18.4 0" }),
    svg("path", { class: "logo-hand", d: "M16 16l6-6.5" }),
    svg("circle", { class: "logo-hub", cx: 16, cy: 16, r: 2.6 }),
  );
}

function switcher(session: Session, sessions: Session[], changeTo: (other: Session) => void): HTMLElement {
  const id = newId();
  const options = sessions.map((s) => h("option", { selected: s.name === session.name }, s.name));
  const select = h("select", { id, onchange: () => changeTo(sessions[select.selectedIndex]!) }, options);
  return h(
    "div",
    { class: "who" },
    h("span", { class: "chip calm" }, "Demo"),
    h("label", { for: id }, "View as"),
    select,
  );
}

function whoAndOut(session: Session, signOut: () => void): HTMLElement {
  return h(
    "div",
    { class: "who" },
    h("span", { class: "who-name", title: session.tenant }, session.name),
    h("button", { type: "button", onclick: signOut }, "Sign out"),
  );
}

/** signInForm takes a token; enter throws when it is none. */
export function signInForm(why: string, enter: (token: string) => void): HTMLElement {
  const id = newId();
  const alert = h("div", { role: "alert" });
  const say = (text: string): void => fill(alert, text && h("p", { class: "problem" }, text));
  const token = h("input", {
    id,
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": `${id}-help`,
  });
  const submit = (event: Event): void => {
    event.preventDefault();
    try {
      enter(token.value.trim());
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
      token.focus();
    }
  };
  say(why);
  queueMicrotask(() => token.focus());
  return h(
    "main",
    { class: "alone" },
    h(
      "form",
      { class: "panel sign-in", onsubmit: submit },
      h("h1", null, dial(), "Sign in to Odometer"),
      alert,
      h("div", { class: "field" }, h("label", { for: id }, "Access token"), token),
      h(
        "p",
        { class: "muted", id: `${id}-help` },
        "A JWT of your tenant, or of an operator. It stays in this tab and is forgotten when the tab is closed. ",
        h("code", null, "odometer token"),
        " makes one.",
      ),
      h("button", { type: "submit", class: "primary" }, "Sign in"),
    ),
  );
}
