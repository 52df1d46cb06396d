// The dashboard of Odometer: a customer's usage, or the operators' view of all
// tenants. This file decides who looks (sessions.ts) and at which page
// (pages.ts), and draws it into its frame (frame.ts).

import { Api } from "./api.ts";
import { fill, h } from "./dom.ts";
import { locale } from "./format.ts";
import { frame, markCurrent, signInForm } from "./frame.ts";
import { findPage } from "./pages.ts";
import { problemBox } from "./panel.ts";
import {
  chosen,
  fetchSessions,
  forget,
  isDemo,
  keep,
  readToken,
  remember,
  remembered,
  type Session,
} from "./sessions.ts";
import { forgetRate } from "./views/rate.ts";
import { readAddress } from "./visit.ts";

// The widget writes its numbers by it, as all the rest does.
document.documentElement.lang = locale;

const root = document.getElementById("app")!;

/** open lets a session work: its pages, with its token, until it leaves. */
function open(session: Session, sessions: Session[]): void {
  const left = new AbortController();
  let page = new AbortController();
  const keeper = keep(session);

  const leave = (): void => {
    left.abort();
    page.abort();
    forgetRate();
  };
  const signOut = (why: string): void => {
    if (left.signal.aborted) return;
    leave();
    forget();
    askForToken(why);
  };
  const changeTo = (other: Session): void => {
    leave();
    remember(other);
    // A page of the other role, or of another's data, would be a dead end.
    history.replaceState(null, "", "#/");
    open(other, sessions);
  };

  const api = new Api({
    token: () => keeper.session().token,
    renew: keeper.renew,
    refused: (why) => !isDemo && signOut(why),
  });
  const names = new Map(
    sessions.flatMap((s) => (s.tenant && s.role === "tenant" ? [[s.tenant, s.name]] : [])),
  );
  const around = frame(session, sessions, changeTo, () => signOut(""));

  // show draws the page that the address names. After a move the heading takes
  // the focus, so that a screen reader begins there.
  const show = (moved: boolean): void => {
    page.abort();
    page = new AbortController();
    const { mayWrite } = session;
    const visit = {
      ...readAddress(),
      api,
      names,
      mayWrite,
      freshToken: keeper.source(),
      signal: page.signal,
    };
    const chosenPage = findPage(session.role, visit.path[0] ?? "");
    markCurrent(around, chosenPage);
    fill(around.main, chosenPage.show(visit));
    const heading = around.main.querySelector("h1");
    document.title = `${heading?.textContent} · Odometer`;
    if (moved) {
      heading?.focus();
      window.scrollTo(0, 0);
    }
  };
  fill(root, around.elements);
  window.addEventListener("hashchange", () => show(true), { signal: left.signal });
  show(false);
}

function askForToken(why: string): void {
  document.title = "Sign in · Odometer";
  const enter = (token: string): void => {
    const session = readToken(token);
    remember(session);
    open(session, [session]);
  };
  fill(root, signInForm(why, enter));
}

async function start(): Promise<void> {
  try {
    const sessions = isDemo ? await fetchSessions() : remembered();
    const session = chosen(sessions);
    if (session) open(session, sessions);
    else askForToken("");
  } catch (error) {
    const box = problemBox(error, new AbortController().signal, () => void start());
    fill(root, h("main", { class: "alone" }, h("h1", null, "Odometer"), box));
  }
}

void start();
