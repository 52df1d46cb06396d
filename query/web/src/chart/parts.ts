import type { Series, Words } from "./history.ts";

/** Makes an element; what it is filled with is text, never markup. */
export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...content: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...content);
  return made;
}

/** What an agent or action is called: "meeting_notes" is "Meeting notes". */
function label(name: string): string {
  const words = name.replace(/_/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** The names and colours, with the sums or, under the pointer, a bucket's numbers. */
export class Legend {
  readonly element = element("figcaption");
  private readonly when = element("strong");
  private readonly values: Text[] = [];

  constructor(
    private readonly all: Series[],
    private readonly words: Words,
  ) {
    this.element.append(this.when);
    for (const { name } of all) {
      const value = new Text();
      this.values.push(value);
      this.element.append(element("span", {}, element("i"), `${label(name)} `, value));
    }
    this.show(null);
  }

  /** Shows one bucket, or the sums of all. */
  show(bucket: number | null): void {
    this.when.textContent = bucket == null ? this.words.range() : this.words.when(bucket);
    this.all.forEach(({ quantities, total }, i) => {
      this.values[i]!.data = this.words.number(bucket == null ? total : (quantities[bucket] ?? 0));
    });
  }

  paint(colours: string[]): void {
    this.element.querySelectorAll("i").forEach((swatch, i) => {
      swatch.style.background = colours[i] ?? "";
    });
  }
}

/** The same numbers for those who do not see the canvas. */
export function table(all: Series[], words: Words, buckets: number, caption: string): HTMLElement {
  const head = element("tr", {}, element("th", { scope: "col" }, "From"));
  for (const { name } of all) head.append(element("th", { scope: "col" }, label(name)));
  const body = element("tbody");
  for (let i = 0; i < buckets; i++) {
    const row = element("tr", {}, element("th", { scope: "row" }, words.when(i)));
    for (const { quantities } of all) row.append(element("td", {}, words.number(quantities[i] ?? 0)));
    body.append(row);
  }
  return element(
    "div",
    { className: "numbers" },
    element("table", {}, element("caption", {}, caption), element("thead", {}, head), body),
  );
}
