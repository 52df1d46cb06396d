// Tables that are tables to a screen reader and cards on a narrow panel, with
// rows that open and a button for what is older.

import { announce, append, fill, h, icon, muted, newId, type Child } from "./dom.ts";
import { noun, plural } from "./format.ts";
import { problemBox } from "./panel.ts";
import type { Visit } from "./visit.ts";

export interface Column<T> {
  head: string;
  cell: (row: T) => Child;
  kind: Kind | undefined;
}

type Kind = "number" | "acts" | "wide";

/** col is a column of a table: its head, and what a row has there. */
export const col = <T>(head: string, cell: (row: T) => Child, kind?: Kind): Column<T> => ({
  head,
  cell,
  kind,
});

export interface TableOptions<T> {
  caption: string;
  columns: Column<T>[];
  /** detail is what a row shows when it is opened */
  detail?: (row: T) => Child;
}

export interface Table<T> {
  element: HTMLElement;
  add: (rows: T[]) => void;
}

// The roles are spelled out because cards take a table's display away, and with
// it its meaning in some browsers.
export function table<T>(o: TableOptions<T>, rows: T[]): Table<T> {
  const body = h("tbody", { role: "rowgroup" });
  const heads = o.columns.map((c) =>
    h(
      "th",
      { role: "columnheader", scope: "col", class: c.kind },
      c.kind === "acts" ? h("span", { class: "unseen" }, c.head) : c.head,
    ),
  );
  const element = h(
    "table",
    { role: "table" },
    h("caption", { class: "unseen" }, o.caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
    body,
  );
  const add = (more: T[]): void => more.forEach((row) => append(body, line(o, row)));
  add(rows);
  return { element, add };
}

function line<T>(o: TableOptions<T>, row: T): Node[] {
  const cells = o.columns.map((c) =>
    h("td", { role: "cell", class: c.kind, "data-head": c.head }, h("div", null, c.cell(row))),
  );
  const tr = h("tr", { role: "row" }, cells);
  if (!o.detail) return [tr];

  const { detail } = o;
  const id = newId();
  const inside = h("td", { role: "cell", colspan: o.columns.length });
  const opened = h("tr", { role: "row", id, class: "detail", hidden: true }, inside);
  const toggle = h(
    "button",
    {
      type: "button",
      class: "toggle",
      "aria-expanded": "false",
      "aria-controls": id,
      "aria-label": "Details",
    },
    icon("chevron"),
  );
  toggle.addEventListener("click", () => {
    opened.hidden = !opened.hidden;
    toggle.setAttribute("aria-expanded", String(!opened.hidden));
    if (!inside.hasChildNodes()) fill(inside, detail(row));
  });
  cells[0]?.prepend(toggle);
  cells[0]?.classList.add("opens");
  return [tr, opened];
}

export interface Page {
  next_cursor: string | null;
}

export interface PagedOptions<T, P extends Page> extends TableOptions<T> {
  first: P;
  fetchPage: (cursor: string) => Promise<P>;
  rows: (page: P) => T[];
  word: string; // for one row
}

/** paged is a table with a button that fetches what follows, and adds it. */
export function paged<T, P extends Page>(visit: Visit, o: PagedOptions<T, P>): Child {
  const list = table(o, o.rows(o.first));
  const foot = h("div", { class: "pager", tabindex: -1 });
  const offer = (cursor: string | null, end: Child = null): void =>
    fill(
      foot,
      cursor
        ? h("button", { type: "button", onclick: () => void fetchMore(cursor) }, `Show more ${plural(o.word)}`)
        : end,
    );
  const fetchMore = async (cursor: string): Promise<void> => {
    const button = foot.querySelector("button");
    if (button?.ariaDisabled) return;
    // Not disabled in earnest: that would take the focus away.
    if (button) button.ariaDisabled = "true";
    try {
      const page = await o.fetchPage(cursor);
      const more = o.rows(page);
      list.add(more);
      const hadFocus = foot.contains(document.activeElement);
      offer(page.next_cursor, muted("That is all."));
      if (hadFocus) (foot.querySelector("button") ?? foot).focus(); // who goes on by the keyboard stays here
      announce(`${noun(more.length, `more ${o.word}`)}${page.next_cursor ? "" : ": that is all"}`);
    } catch (error) {
      if (!visit.signal.aborted)
        fill(
          foot,
          problemBox(error, visit.signal, () => void fetchMore(cursor)),
        );
    }
  };
  offer(o.first.next_cursor);
  return [list.element, foot];
}

/** facts is a list of names and values. */
export function facts(pairs: [string, Child][]): HTMLElement {
  return h(
    "dl",
    { class: "facts" },
    pairs.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))),
  );
}

/** code shows text as it is, to be read and copied. */
export function code(text: string): HTMLElement {
  return h("pre", { tabindex: 0 }, h("code", null, text));
}
