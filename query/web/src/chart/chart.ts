import uPlot from "uplot";
import css from "uplot/dist/uPlot.min.css";

export function drawHistory(element: HTMLElement): void {
  element.textContent = uPlot.name + css.length;
}
