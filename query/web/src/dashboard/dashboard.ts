// The dashboard of Odometer: a customer's usage, or the operators' view of all
// tenants. This file decides who looks (sessions.ts) and at which page
// (pages.ts), and draws it into its frame (frame.ts).

import { Api } from "./api.ts";
import { fill, h } from "./dom.ts";
import { locale } from "./format.ts";
import { frame, markCurrent, signInForm } from "./frame.ts";
import { findPage, pagesOf } from "./pages.ts";
import { problemBox } from "./panel.ts";
import {
  chosen,
  fetchSessions,
  forget,
  isDemo,
  readToken,
  remember,
  remembered,
  type Session,
} from "./sessions.ts";
import { forgetRate } from "./views/rate.ts";
import type { Visit } from "./visit.ts";

// The widget writes its numbers by it, as all the rest does.
document.documentElement.lang = locale;

const root = document.getElementById("app")!;

/** open lets a session work: its pages, with its token, until it leaves. */
function open(session: Session, sessions: Session[]): void {
  const left = new AbortController();
  let page = new AbortController();
  let renewing: Promise<boolean> | null = null;

  // renew asks the demo once, however many calls were refused at the same time.
  const renew = (): Promise<boolean> => {
    if (!isDemo) return Promise.resolve(false);
    renewing ??= fetchSessions()
      .then((fresh) => {
        const same = fresh.find((s) => s.name === session.name);
        session = same ?? session;
        return same !== undefined;
      })
      .catch(() => false)
      .finally(() => (renewing = null));
    return renewing;
  };

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
  const changeTo = (name: string): void => {
    const other = sessions.find((s) => s.name === name);
    if (!other) return;
    leave();
    remember(other);
    // A page of the other role, or of another's data, would be a dead end.
    history.replaceState(null, "", "#/");
    open(other, sessions);
  };

  const api = new Api({ token: () => session.token, renew, refused: (why) => !isDemo && signOut(why) });
  const names = new Map(
    sessions.flatMap((s) => (s.tenant && s.role === "tenant" ? [[s.tenant, s.name]] : [])),
  );
  const around = frame(pagesOf(session.role), session, sessions, changeTo, () => signOut(""));

  // show draws the page that the address names. After a move the heading takes
  // the focus, so that a screen reader begins there.
  const show = (moved: boolean): void => {
    page.abort();
    page = new AbortController();
    const [path = "", search = ""] = location.hash.replace(/^#\/?/, "").split("?");
    const query = new URLSearchParams(search);
    const visit: Visit = {
      api,
      names,
      query,
      mayWrite: session.mayWrite,
      path: path.split("/").filter(Boolean),
      freshToken: tokenSource(),
      remember: () => history.replaceState(null, "", `#/${path}${query.size > 0 ? `?${query}` : ""}`),
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

  // tokenSource gives out the session's token. Who asks again was refused with
  // it, so then it fetches another.
  const tokenSource = (): (() => Promise<string>) => {
    let given = "";
    return async () => {
      if (given === session.token) await renew();
      return (given = session.token);
    };
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
