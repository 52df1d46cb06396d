import uPlot from "uplot";

import type { Words } from "./history.ts";

// Distinguishable with the common kinds of colour blindness, and at 3:1 or more
// on white and on black.
const palette = ["#2f7bd9", "#d55e00", "#009e73", "#b8609a", "#8a7d00", "#7a6ff0"];

/** The series' colours, by the page's custom properties where it sets them. */
export function coloursOf(element: HTMLElement, count: number): string[] {
  const style = getComputedStyle(element);
  const all = palette.map((colour, i) => style.getPropertyValue(`--odometer-series-${i + 1}`).trim() || colour);
  return Array.from({ length: count }, (_, i) => all[i % all.length]!);
}

/**
 * Draws stacked bars. tops are the bars' ends by series (see stack); hover is
 * called with the bucket under the pointer, null when there is none.
 */
export function plot(
  target: HTMLElement,
  tops: number[][],
  buckets: number,
  words: Words,
  colours: string[],
  size: { width: number; height: number },
  hover: (bucket: number | null) => void,
): uPlot {
  const style = getComputedStyle(target);
  const font = `12px ${style.fontFamily}`;
  const label = Math.max(64, words.when(0).length * 7 + 16); // pixels that a label and a gap take, about
  const axis: uPlot.Axis = {
    font,
    stroke: style.color,
    grid: { stroke: "#8884", width: 1 },
    ticks: { show: false },
  };
  const options: uPlot.Options = {
    ...size,
    legend: { show: false },
    cursor: {
      y: false,
      points: { show: false },
      drag: { x: false, y: false, setScale: false },
      // The line is in the middle of its bars.
      move: (u, left, top) => [left < 0 ? left : u.valToPos(Math.round(u.posToVal(left, "x")), "x"), top],
    },
    scales: {
      x: { time: false, range: () => [-0.5, buckets - 0.5] },
      y: { range: (_u, min, max) => [Math.min(0, min) * 1.05, Math.max(1, max) * 1.05] },
    },
    axes: [
      { ...axis, grid: { show: false }, size: 28, incrs: [1, 2, 3, 7, 14, 28, 61, 122, 244], space: label, values: (_u, at) => at.map((i) => words.when(i)) },
      { ...axis, incrs: wholeSteps(), size: 40, values: (_u, at) => at.map((n) => words.tick(n)) },
    ],
    // The outermost bars first: each is drawn from the axis, over those before it.
    series: [
      {},
      ...tops
        .map((_, i): uPlot.Series => ({ fill: colours[i]!, width: 0, points: { show: false }, paths: uPlot.paths.bars!({ size: [0.8, 64] }) }))
        .reverse(),
    ],
    hooks: { setCursor: [(u) => hover(u.cursor.idx ?? null)] },
  };
  const data: uPlot.AlignedData = [Array.from({ length: buckets }, (_, i) => i), ...[...tops].reverse()];
  return new uPlot(options, data, target);
}

/** 1, 2, 5, 10, …: nobody uses half an e-mail. */
function wholeSteps(): number[] {
  const steps: number[] = [];
  for (let power = 1; power <= 1e15; power *= 10) steps.push(power, 2 * power, 5 * power);
  return steps;
}
