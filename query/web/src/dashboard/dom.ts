// Elements, made one way: text becomes text nodes, so that nothing which the API
// answers is ever read as markup.

export type Child = Node | string | number | null | undefined | false | Child[];

type Listener = (event: never) => void;
export type Props = Record<string, string | number | boolean | null | undefined | Listener>;

/** h makes an element. "on…" properties listen, true sets an empty attribute, null and false none. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props | null = null,
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  furnish(element, props, children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** svg makes an element of a drawing. */
export function svg<K extends keyof SVGElementTagNameMap>(
  tag: K,
  props: Props | null = null,
  ...children: Child[]
): SVGElementTagNameMap[K] {
  const element = document.createElementNS(SVG, tag);
  furnish(element, props, children);
  return element;
}

function furnish(element: Element, props: Props | null, children: Child[]): void {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (typeof value === "function") {
      element.addEventListener(name.slice(2), value as unknown as EventListener);
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, String(value));
    }
  }
  append(element, children);
}

export function append(parent: Element | DocumentFragment, children: Child[]): void {
  for (const child of children) {
    if (Array.isArray(child)) append(parent, child);
    else if (child !== null && child !== undefined && child !== false)
      parent.append(child instanceof Node ? child : String(child));
  }
}

/** fill replaces all that is in an element. */
export function fill(parent: Element, ...children: Child[]): void {
  const fragment = document.createDocumentFragment();
  append(fragment, children);
  parent.replaceChildren(fragment);
}

/** muted is text that matters less. */
export const muted = (...said: Child[]): HTMLElement => h("span", { class: "muted" }, ...said);

export const strong = (...said: Child[]): HTMLElement => h("strong", null, ...said);

/** list is an unordered one. */
export const list = (looks: string | null, items: Child[]): HTMLElement =>
  h(
    "ul",
    { class: looks },
    items.map((item) => h("li", null, item)),
  );

const ICONS = {
  refresh: "M13.5 8a5.5 5.5 0 1 1-1.6-3.9M13.5 1.5v3h-3",
  chevron: "M6 3.5 10.5 8 6 12.5",
  download: "M8 2v8M4.5 7 8 10.5 11.5 7M2.5 13.5h11",
};

/** icon is decoration: the control that carries it has a name of its own. */
export function icon(name: keyof typeof ICONS): SVGElement {
  return svg(
    "svg",
    { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" },
    svg("path", { d: ICONS[name] }),
  );
}

let ids = 0;

/** newId names an element, so that another can refer to it. */
export function newId(): string {
  return `o${++ids}`;
}

/** announce says to screen readers what has changed elsewhere on the page. */
export function announce(text: string): void {
  const region = document.getElementById("announcements");
  if (region) region.textContent = text;
}
