// Filters stand in the page's address, so that a filtered list can be reloaded
// and sent to a colleague.

import { fill, h, newId } from "./dom.ts";
import { sentence, words } from "./format.ts";
import type { Visit } from "./visit.ts";

export interface Field {
  name: string;
  label: string;
  /** a choice of values and their words; without: a text, or what input says */
  options?: [string, string][];
  input?: "search" | "date" | "datetime-local";
  placeholder?: string;
  /** whether the field is there at all, by what the others say */
  when?: () => boolean;
}

export interface Filters {
  element: HTMLFormElement;
  value: (name: string) => string;
  /** offer replaces the choices of a select, and keeps what is chosen. */
  offer: (name: string, options: [string, string][]) => void;
}

/** choices are options by the names that the API has for them; the first is taken without a choice. */
export const choices = (first: string, names: string[]): [string, string][] => [
  ["", first],
  ...names.map((n): [string, string] => [n, sentence(words(n))]),
];

const TYPING = 300; // ms without a key before a search begins

export function filters(visit: Visit, fields: Field[], changed: () => void): Filters {
  const value = (name: string): string => visit.query.get(name) ?? "";
  const controls = new Map<string, HTMLInputElement | HTMLSelectElement>();
  const labels = new Map<Field, HTMLElement>();
  let typing = 0;

  const take = (field: Field, now: string): void => {
    if (now === value(field.name)) return;
    if (now) visit.query.set(field.name, now);
    else visit.query.delete(field.name);
    visit.remember();
    showFields();
    changed();
  };
  const showFields = (): void =>
    labels.forEach((label, field) => (label.hidden = field.when ? !field.when() : false));

  const offer = (name: string, options: [string, string][]): void => {
    const control = controls.get(name);
    if (!control) return;
    const chosen = value(name);
    const known = options.some(([v]) => v === chosen)
      ? options
      : [...options, [chosen, chosen] as [string, string]];
    fill(
      control,
      known.map(([v, text]) => h("option", { value: v }, text)),
    );
    control.value = chosen;
  };

  const element = h("form", { class: "filters", role: "search", onsubmit: (e: Event) => e.preventDefault() });
  for (const field of fields) {
    const id = newId();
    const control = field.options
      ? h("select", { id })
      : h("input", {
          id,
          type: field.input ?? "text",
          placeholder: field.placeholder,
          autocomplete: "off",
          spellcheck: "false",
        });
    controls.set(field.name, control);
    if (field.options) offer(field.name, field.options);
    else control.value = value(field.name);
    control.addEventListener("change", () => take(field, control.value.trim()));
    if (field.input === "search") {
      control.addEventListener("input", () => {
        clearTimeout(typing);
        typing = window.setTimeout(() => take(field, control.value.trim()), TYPING);
      });
    }
    const label = h("div", { class: "field" }, h("label", { for: id }, field.label), control);
    labels.set(field, label);
    element.append(label);
  }
  showFields();
  return { element, value, offer };
}
