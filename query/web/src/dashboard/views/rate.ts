// The live rate as a figure and a line. What was seen is kept while the tab is
// open, so that going to another page and back leaves no hole.

import { h, svg } from "../dom.ts";
import { count, decimal, duration } from "../format.ts";
import type { Instant } from "../types.ts";

interface Sample {
  at: number;
  rate: number;
}

const SPAN = 5 * 60_000; // ms that the line shows
const WIDTH = 300;
const HEIGHT = 56;
const GAP = 15_000; // ms without a sample that break the line

let samples: Sample[] = [];

/** forgetRate drops what was seen: another session may not be allowed to. */
export function forgetRate(): void {
  samples = [];
}

export interface Rate {
  element: HTMLElement;
  add: (rate: number, at: Instant) => void;
}

export function liveRate(): Rate {
  const figure = h("span", { class: "figure" }, "…");
  const note = h("span", { class: "tile-note" }, "counted");
  const area = svg("path", { class: "spark-area" });
  const line = svg("path", { class: "spark-line" });
  const element = h(
    "div",
    { class: "tile rate" },
    h("span", { class: "tile-name" }, "Events per second"),
    figure,
    note,
    svg(
      "svg",
      {
        class: "spark",
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
        preserveAspectRatio: "none",
        "aria-hidden": "true",
      },
      area,
      line,
    ),
  );

  const add = (rate: number, at: Instant): void => {
    const when = Date.parse(at);
    samples = [...samples.filter((s) => s.at > when - SPAN && s.at < when), { at: when, rate }];
    const length = when - samples[0]!.at;
    const seen = Math.max(20_000, length); // so that the beginning is calm
    const peak = Math.max(1, ...samples.map((s) => s.rate));
    const x = (s: Sample): string => (WIDTH - ((when - s.at) / seen) * WIDTH).toFixed(1);
    const y = (s: Sample): string => (HEIGHT - 2 - (s.rate / peak) * (HEIGHT - 6)).toFixed(1);
    const lines = unbroken(samples).map((run) => ({
      run,
      points: run.map((s) => `${x(s)} ${y(s)}`).join("L"),
    }));
    line.setAttribute("d", lines.map(({ points }) => `M${points}`).join(""));
    area.setAttribute(
      "d",
      lines
        .map(({ run, points }) => `M${x(run[0]!)} ${HEIGHT}L${points}L${x(run.at(-1)!)} ${HEIGHT}Z`)
        .join(""),
    );
    figure.textContent = rate >= 100 ? count(Math.round(rate)) : decimal(rate);
    note.textContent =
      length > 0 ? `counted; peak ${count(Math.round(peak))} in ${duration(length / 1000)}` : "counted";
  };
  return { element, add };
}

// unbroken splits where the tab was hidden: nothing is known of that time.
function unbroken(all: Sample[]): Sample[][] {
  const runs: Sample[][] = [];
  for (const s of all) {
    const run = runs.at(-1);
    if (run && s.at - run.at(-1)!.at <= GAP) run.push(s);
    else runs.push([s]);
  }
  return runs;
}
