// The scheduled jobs: when each job is due, and how it went.

import { ask } from "../ask.ts";
import { h, muted, type Child } from "../dom.ts";
import { ago, now, time, timeOr } from "../format.ts";
import { empty, panel } from "../panel.ts";
import { actButton, chip, named, readOnlyNote, title } from "../parts.ts";
import { col, table } from "../table.ts";
import type { Job } from "../types.ts";
import type { Visit } from "../visit.ts";

const PATH = "/api/v1/admin/jobs";

const DOES: Record<string, string> = {
  rollover: "begins new periods, closes ended ones, retries dead letters whose period has come",
  report: "reports overage to Stripe",
  verify: "compares what was reported to Stripe with what Stripe has",
  reconcile: "audits all data, and repairs counters from events",
  alerts: "raises alerts at 80 % and 100 %, and delivers them",
  retention: "removes events after their time of retention",
  subscriptions: "compares subscriptions with Stripe's",
};

export function jobsPage(visit: Visit): Child {
  const list = panel(visit, {
    title: "Scheduled jobs",
    lines: 7,
    load: (signal) => visit.api.get<{ jobs: Job[] }>(PATH, {}, signal),
    render: ({ jobs }) => draw(visit, jobs, () => void list.load()),
  });
  return [title("Jobs"), readOnlyNote(visit), list.element];
}

function draw(visit: Visit, jobs: Job[], reload: () => void): Child {
  if (jobs.length === 0) return empty("No job is known. They are run by the service reporter.");
  return table<Job>(
    {
      caption: "Jobs, when each is due and how it went",
      columns: [
        col("Job", (j) => named(j.name, DOES[j.name]), "wide"),
        col("State", standing),
        col("Due", due),
        col("Last success", (j) => timeOr(j.last_success_at, "Never")),
        col(
          "Last error",
          (j) => (j.last_error ? h("span", { class: "bad-text" }, j.last_error) : muted("None")),
          "wide",
        ),
        col("Last act", lastAct),
        col("Act", (j) => switchButton(visit, j, reload), "acts"),
      ],
    },
    jobs,
  ).element;
}

const OVERDUE = 120_000; // ms after which nobody seems to run it

function due(j: Job): Child {
  if (j.paused) return timeOr(null, "When resumed");
  if (!j.due_at) return timeOr(null, "Not planned");
  if (now() - Date.parse(j.due_at) > OVERDUE)
    return h("span", { class: "warn" }, "Since ", time(j.due_at), ": is the service reporter running?");
  return [ago(j.due_at), " ", muted(time(j.due_at))];
}

function standing(j: Job): Child {
  if (j.paused) return chip("warn", "Paused");
  if (j.last_error) return chip("bad", "Failing");
  return j.last_success_at ? chip("good", "Fine") : chip("calm", "Not run yet");
}

const lastAct = (j: Job): Child =>
  j.last_act
    ? [
        `${j.last_act.act} by ${j.last_act.who} `,
        time(j.last_act.at),
        j.last_act.result && `: ${j.last_act.result}`,
      ]
    : timeOr(null, "None");

function switchButton(visit: Visit, j: Job, reload: () => void): HTMLElement {
  const [verb, act, says] = j.paused
    ? ["Resume", "resume", "It is run again from its next time on."]
    : [
        "Pause",
        "pause",
        `It is not run until somebody resumes it, also not after a restart. It ${DOES[j.name] ?? "does its work by the clock"}.`,
      ];
  return actButton(visit, verb, j.name, () => {
    void ask({
      title: `${verb} the job ${j.name}`,
      says: h("p", null, says),
      verb,
      act: async (_, signal) => {
        const set = await visit.api.post<{ job: string; paused: boolean }>(
          `${PATH}/${encodeURIComponent(j.name)}/${act}`,
          {},
          signal,
        );
        return h("p", null, set.paused ? chip("warn", "Paused") : chip("good", "Running"), ` ${set.job}`);
      },
    }).then((tried) => tried && reload());
  });
}
