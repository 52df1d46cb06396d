/**
 * The history chart, loaded when somebody asks for it: by the widget's History
 * button (toggle) and by the dashboard (drawHistory).
 *
 * A canvas says nothing to who does not see it, so each chart has its numbers in
 * a table beside it that only screen readers find. Nothing moves by itself.
 */
import uplotSheet from "uplot/dist/uPlot.min.css";

import chartSheet from "./chart.css";
import { seriesOf, stack, Words } from "./history.ts";
import type { Grouping, History } from "./history.ts";
import { element, Legend, table } from "./parts.ts";
import { coloursOf, plot } from "./plot.ts";

export type { Bucket, Grouping, History } from "./history.ts";
export { toggle } from "./panel.ts";

export interface Options {
  locale?: Intl.LocalesArgument; // of dates and numbers; default: the browser's
  caption?: string; // what the table is called
  by?: Grouping; // what the colours tell apart; default: the history's first grouping
  height?: number; // of the plot, in pixels; default 200
}

const sheet = new CSSStyleSheet();
sheet.replaceSync(uplotSheet + chartSheet);

const drawn = new WeakMap<HTMLElement, () => void>();

/**
 * Draws stacked bars, one for each bucket of a history, into the element. They
 * follow its width and the colour scheme. Drawing into the same element again
 * replaces them; the function that is returned takes them away.
 */
export function drawHistory(target: HTMLElement, history: History, options: Options = {}): () => void {
  drawn.get(target)?.();
  adopt(target);

  const { by = (history.group_by[0] ?? "agent") as Grouping, caption = "Usage", height = 200 } = options;
  const words = new Words(options.locale, history);
  const series = seriesOf(history, by);
  const tops = stack(series);
  const legend = new Legend(series, words);
  const canvas = element("div", { className: "plot", ariaHidden: "true", dir: "ltr" });
  canvas.style.height = `${height}px`;
  const figure = element(
    "figure",
    { className: "odometer-chart" },
    legend.element,
    canvas,
    table(series, words, history.buckets.length, caption),
  );
  target.replaceChildren(figure);

  const draw = () => {
    const colours = coloursOf(target, series.length);
    legend.paint(colours);
    canvas.replaceChildren();
    return plot(canvas, tops, history.buckets.length, words, colours, { width: canvas.clientWidth, height }, (i) => legend.show(i));
  };
  let current = draw();

  const resized = new ResizeObserver(() => {
    const width = canvas.clientWidth;
    if (width && width != current.width) current.setSize({ width, height });
  });
  resized.observe(canvas);

  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const recolour = () => {
    current.destroy();
    current = draw();
  };
  scheme.addEventListener("change", recolour);

  const stop = () => {
    resized.disconnect();
    scheme.removeEventListener("change", recolour);
    current.destroy();
    figure.remove();
    drawn.delete(target);
  };
  drawn.set(target, stop);
  return stop;
}

/** Gives the document or shadow root of the element the chart's styles, once. */
function adopt(target: HTMLElement): void {
  const root = target.getRootNode() as Document | ShadowRoot;
  if (!root.adoptedStyleSheets.includes(sheet)) root.adoptedStyleSheets.push(sheet);
}
