// A customer's own pages.

import { h, type Child } from "../dom.ts";
import { title } from "../parts.ts";
import type { Visit } from "../visit.ts";
import { alertsPanel } from "./alerts.ts";
import { eventsPanel } from "./events.ts";
import { forecastPanel } from "./forecast.ts";
import { historyPanel } from "./history.ts";
import { periodsPanel } from "./periods.ts";

export function usagePage(visit: Visit): Child {
  return [
    title("Usage"),
    h(
      "div",
      { class: "columns" },
      widget(visit),
      h("div", { class: "stack" }, forecastPanel(visit, null), alertsPanel(visit, null)),
    ),
    historyPanel(visit, null),
  ];
}

// widget is the very element that customers' own pages embed.
function widget(visit: Visit): HTMLElement {
  const element = document.createElement("odometer-usage") as HTMLElement & {
    getToken?: () => Promise<string>;
  };
  element.getToken = visit.freshToken;
  return element;
}

export const eventsPage = (visit: Visit): Child => [title("Events"), eventsPanel(visit, null)];

export const periodsPage = (visit: Visit): Child => [title("Billing periods"), periodsPanel(visit, null)];
