// A customer's own pages.

import { h, type Child } from "../dom";
import { title } from "../parts";
import type { Visit } from "../visit";
import { alertsPanel } from "./alerts";
import { eventsPanel } from "./events";
import { forecastPanel } from "./forecast";
import { historyPanel } from "./history";
import { periodsPanel } from "./periods";

export function usagePage(visit: Visit): Child {
  return [
    title("Usage"),
    h("div", { class: "columns" }, widget(visit), forecastPanel(visit, null)),
    historyPanel(visit, null),
    alertsPanel(visit, null),
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
