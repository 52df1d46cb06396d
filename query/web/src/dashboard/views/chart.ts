// Columns over time, stacked by group. Drawn as SVG, so that the style sheet
// colours it in both schemes; pointing at a column or moving with the arrow keys
// tells what is in it.

import { fill, h, strong, svg, type Child } from "../dom";
import { count } from "../format";

export interface Column {
  label: string; // in full, for the reader of this column
  tick: string; // short, below it
  total: number;
  values: number[]; // by series
}

export interface Series {
  name: string;
  total: number;
}

const HEIGHT = 220;
const TOP = 10;
const BOTTOM = 24; // room for the ticks
const TICK_WIDTH = 64; // px that a tick's text may take
const COLOURS = 8; // that the style sheet has

export const colour = (series: number): string => `series-${series % COLOURS}`;

export function chart(name: string, series: Series[], columns: Column[]): HTMLElement {
  const drawing = svg("svg", { class: "chart-drawing", height: HEIGHT, "aria-hidden": "true" });
  const told = h("div", { class: "chart-tip", role: "status", hidden: true });
  const element = h(
    "div",
    {
      class: "chart",
      role: "group",
      tabindex: 0,
      "aria-label": `${name}. ${columns.length} columns: the arrow keys read them.`,
    },
    drawing,
    told,
  );
  let at = -1;
  let width = 0;

  const tell = (index: number): void => {
    at = index;
    const column = columns[index];
    drawing.querySelectorAll(".chart-hit").forEach((hit, i) => hit.classList.toggle("at", i === index));
    told.hidden = !column;
    if (!column) return;
    fill(told, tip(series, column));
    const { left, step } = plot(width, columns, extent(columns));
    const middle = left + (index + 0.5) * step;
    const room = width - told.offsetWidth;
    told.style.left = `${Math.max(0, Math.min(room, middle - told.offsetWidth / 2))}px`;
  };

  const draw = (): void => {
    // Without room there is nothing to draw: the page is not laid out yet.
    if (element.clientWidth === width || element.clientWidth < TICK_WIDTH * 2) return;
    width = element.clientWidth;
    fill(drawing, ...paint(width, columns, tell));
    drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    tell(-1);
  };
  // It ends with the element: an observer keeps none alive.
  new ResizeObserver(draw).observe(element);

  element.addEventListener("pointerleave", () => tell(-1));
  element.addEventListener("blur", () => tell(-1));
  element.addEventListener("keydown", (e) => {
    const to = {
      ArrowLeft: Math.max(0, at - 1),
      ArrowRight: Math.min(columns.length - 1, at + 1),
      Home: 0,
      End: columns.length - 1,
      Escape: -1,
    }[e.key];
    if (to === undefined) return;
    e.preventDefault();
    tell(to);
  });
  return element;
}

function tip(series: Series[], column: Column): Child {
  const parts = series
    .map((s, i) => ({ name: s.name, value: column.values[i] ?? 0, class: colour(i) }))
    .filter((p) => p.value !== 0);
  return [
    strong(column.label),
    parts.map((p) =>
      h(
        "div",
        { class: "tip-line" },
        h("span", { class: `swatch ${p.class}` }),
        p.name,
        h("b", null, count(p.value)),
      ),
    ),
    parts.length !== 1 &&
      h(
        "div",
        { class: "tip-line" },
        h("span", { class: "swatch" }),
        "Total",
        h("b", null, count(column.total)),
      ),
  ];
}

interface Extent {
  min: number;
  max: number;
  step: number; // between lines
}

// extent is the range of the stacks, widened to round figures. Corrections can
// pull a stack below zero.
function extent(columns: Column[]): Extent {
  const sum = (c: Column, sign: 1 | -1): number => c.values.reduce((s, v) => (v * sign > 0 ? s + v : s), 0);
  const max = Math.max(0, ...columns.map((c) => sum(c, 1)));
  const min = Math.min(0, ...columns.map((c) => sum(c, -1)));
  const step = roundStep((max - min) / 5);
  return { min: Math.floor(min / step) * step, max: Math.max(step, Math.ceil(max / step) * step), step };
}

// roundStep is the next of 1, 2, 5, 10, 20, 50 …: quantities are whole.
function roundStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, least)));
  return power * ([1, 2, 5, 10].find((m) => m * power >= least) ?? 10);
}

function plot(
  width: number,
  columns: Column[],
  e: Extent,
): { left: number; step: number; y: (v: number) => number } {
  const digits = Math.max(count(e.max).length, count(e.min).length);
  const left = 14 + digits * 7;
  const span = HEIGHT - TOP - BOTTOM;
  return {
    left,
    step: (width - left) / Math.max(1, columns.length),
    y: (v) => TOP + span - ((v - e.min) / (e.max - e.min)) * span,
  };
}

function paint(width: number, columns: Column[], tell: (index: number) => void): SVGElement[] {
  const e = extent(columns);
  const { left, step, y } = plot(width, columns, e);
  const drawn: SVGElement[] = [];
  for (let v = e.min; v <= e.max; v += e.step) {
    drawn.push(
      svg("line", { class: v === 0 ? "chart-zero" : "chart-grid", x1: left, x2: width, y1: y(v), y2: y(v) }),
    );
    drawn.push(
      svg("text", { class: "chart-text", x: left - 8, y: y(v) + 4, "text-anchor": "end" }, count(v)),
    );
  }
  const gap = step > 6 ? Math.min(step * 0.25, 8) : 0.5;
  const every = Math.max(1, Math.ceil(TICK_WIDTH / step));
  columns.forEach((c, i) => {
    const x = left + i * step;
    drawn.push(...stack(c, x + gap / 2, Math.min(step - gap, 48), y, step - gap));
    if (i % every === 0) drawn.push(tick(c.tick, x + step / 2, width));
  });
  columns.forEach((_, i) =>
    drawn.push(
      svg("rect", {
        class: "chart-hit",
        x: left + i * step,
        y: TOP,
        width: step,
        height: HEIGHT - TOP - BOTTOM,
        onpointerenter: () => tell(i),
      }),
    ),
  );
  return drawn;
}

// tick is the text below a column, kept inside the drawing at its end.
function tick(text: string, x: number, width: number): SVGElement {
  const atEnd = x > width - TICK_WIDTH / 2;
  return svg(
    "text",
    { class: "chart-text", x: atEnd ? width : x, y: HEIGHT - 6, "text-anchor": atEnd ? "end" : "middle" },
    text,
  );
}

function stack(c: Column, x: number, width: number, y: (v: number) => number, room: number): SVGElement[] {
  let up = 0;
  let down = 0;
  return c.values.flatMap((value, series) => {
    if (value === 0) return [];
    const from = value > 0 ? up : down;
    if (value > 0) up += value;
    else down += value;
    const edges = [y(from), y(from + value)];
    const height = Math.max(0.5, Math.abs(edges[0]! - edges[1]!));
    return svg("rect", {
      class: colour(series),
      x: x + (room - width) / 2,
      y: Math.min(...edges),
      width: Math.max(0.5, width),
      height,
    });
  });
}
