// What acts asks first, and then says what became of it, in the same dialog.

import { Problem } from "./api.ts";
import { fill, h, newId, type Child } from "./dom.ts";

export interface Question {
  title: string;
  /** what will happen, in a sentence or two */
  says: Child;
  /** the verb on the button that does it */
  verb: string;
  /** a text that the act needs, such as a reason */
  wants?: string;
  /** act does it and returns what became of it */
  act: (text: string, signal: AbortSignal) => Promise<Child>;
}

/** ask resolves when the dialog is closed, to whether something may have been done. */
export function ask(q: Question): Promise<boolean> {
  return new Promise((resolve) => {
    const abandoned = new AbortController();
    let tried = false;
    const titleId = newId();
    const textId = newId();
    const text = h("textarea", { id: textId, rows: 3, required: true, maxlength: 1000 });
    const result = h("div", { class: "result", "aria-live": "polite" });
    const cancel = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
    const go = h("button", { type: "submit", class: "primary" }, q.verb);
    const form = h(
      "form",
      { onsubmit: (e: Event) => (e.preventDefault(), void act()) },
      h("h2", { id: titleId }, q.title),
      h("div", { class: "says" }, q.says),
      q.wants && h("div", { class: "field" }, h("label", { for: textId }, q.wants), text),
      result,
      h("div", { class: "dialog-acts" }, cancel, go),
    );
    const dialog = h("dialog", { "aria-labelledby": titleId }, form);

    const act = async (): Promise<void> => {
      tried = true;
      go.disabled = true;
      fill(result, h("p", { class: "muted" }, "Working…"));
      try {
        fill(result, await q.act(text.value.trim(), abandoned.signal));
        go.remove();
        cancel.textContent = "Close";
        cancel.focus();
      } catch (error) {
        if (abandoned.signal.aborted) return;
        fill(result, h("p", { class: "problem" }, whyNot(error)));
        go.disabled = false;
      }
    };

    dialog.addEventListener("close", () => {
      abandoned.abort();
      dialog.remove();
      resolve(tried);
    });
    // Leaving the page closes the dialog.
    window.addEventListener("hashchange", () => dialog.close(), { signal: abandoned.signal });
    document.body.append(dialog);
    dialog.showModal();
    (q.wants ? text : cancel).focus();
  });
}

function whyNot(error: unknown): string {
  if (!(error instanceof Problem)) return String(error);
  const said = `${error.title}: ${error.message}`;
  return error.status === 0 ? `${said} It is not known whether it was done: close this, and look.` : said;
}
