// The pages, by who may see them. The first of a role is the one it begins with.

import type { Child } from "./dom.ts";
import type { Session } from "./sessions.ts";
import type { Visit } from "./visit.ts";
import { alertsPage } from "./views/alerts.ts";
import { auditPage } from "./views/audit.ts";
import { deadLettersPage } from "./views/deadletters.ts";
import { jobsPage } from "./views/jobs.ts";
import { ledgerPage } from "./views/ledger.ts";
import { overviewPage } from "./views/overview.ts";
import { tenantPage } from "./views/tenant.ts";
import { tenantsPage } from "./views/tenants.ts";
import { eventsPage, periodsPage, usagePage } from "./views/usage.ts";

export interface Page {
  path: string; // the first part of the address after "#/"
  label: string;
  show: (visit: Visit) => Child;
}

const CUSTOMER: Page[] = [
  { path: "", label: "Usage", show: usagePage },
  { path: "events", label: "Events", show: eventsPage },
  { path: "periods", label: "Billing periods", show: periodsPage },
];

const OPERATOR: Page[] = [
  { path: "", label: "Overview", show: overviewPage },
  {
    path: "tenants",
    label: "Tenants",
    show: (visit) => (visit.path.length > 1 ? tenantPage(visit) : tenantsPage(visit)),
  },
  { path: "alerts", label: "Alerts", show: alertsPage },
  { path: "dead-letters", label: "Dead letters", show: deadLettersPage },
  { path: "jobs", label: "Jobs", show: jobsPage },
  { path: "audit", label: "Audit", show: auditPage },
  { path: "ledger", label: "Ledger", show: ledgerPage },
];

export const pagesOf = (role: Session["role"]): Page[] => (role === "admin" ? OPERATOR : CUSTOMER);

/** findPage is the page of that path, or the first. */
export function findPage(role: Session["role"], path: string): Page {
  const pages = pagesOf(role);
  return pages.find((p) => p.path === path) ?? pages[0]!;
}
