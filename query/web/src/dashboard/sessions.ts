// Who is looking. In the demo the server mints the tokens; elsewhere a person
// gives one, and it stays in this tab's sessionStorage and nowhere else.

import { request } from "./api.ts";

export interface Session {
  name: string;
  role: "tenant" | "admin";
  tenant: string | null;
  token: string;
  mayWrite: boolean;
}

const TOKEN = "odometer-token";
const NAME = "odometer-session";

/** demoSessions is where the demo keeps its tokens; null outside of it. */
const demoSessions =
  document.querySelector<HTMLMetaElement>('meta[name="odometer-sessions"]')?.content ?? null;

export const isDemo = demoSessions !== null;

/** fetchSessions asks the demo for its sessions, with fresh tokens. */
export async function fetchSessions(): Promise<Session[]> {
  const answer = await request(demoSessions ?? "", { headers: { Accept: "application/json" } });
  const { sessions } = (await answer.json()) as { sessions: { name: string; token: string }[] };
  return sessions.map((s) => readToken(s.token, s.name));
}

/** chosen is the session that was looked at last, else the operator: who sees all of it. */
export function chosen(sessions: Session[]): Session | undefined {
  const name = sessionStorage.getItem(NAME);
  return sessions.find((s) => s.name === name) ?? sessions.find((s) => s.role === "admin") ?? sessions[0];
}

export function remember(session: Session): void {
  if (isDemo) sessionStorage.setItem(NAME, session.name);
  else sessionStorage.setItem(TOKEN, session.token);
}

/** remembered is the session of this tab, if there is one. */
export function remembered(): Session[] {
  const token = sessionStorage.getItem(TOKEN);
  return token ? [readToken(token)] : [];
}

export function forget(): void {
  sessionStorage.removeItem(TOKEN);
}

/** readToken looks into a JWT to choose the view. Whether it is good, the API decides at every call. */
export function readToken(token: string, name?: string): Session {
  let claims: { role?: unknown; tenant_id?: unknown; scope?: unknown; sub?: unknown };
  try {
    const payload = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(payload), (c) => c.charCodeAt(0))));
  } catch {
    throw new Error(
      "This is no token: want three parts with dots between them, as `odometer token` prints them.",
    );
  }
  const role = claims.role === "admin" ? "admin" : "tenant";
  const scopes = Array.isArray(claims.scope) ? claims.scope : String(claims.scope ?? "").split(" ");
  return {
    name:
      name ??
      (typeof claims.sub === "string" && claims.sub
        ? claims.sub
        : role === "admin"
          ? "Operator"
          : "Customer"),
    role,
    tenant: typeof claims.tenant_id === "string" ? claims.tenant_id : null,
    token,
    mayWrite: scopes.includes("usage:write"),
  };
}

/** Keeper holds the session at work, whose token is renewed where that can be done. */
export interface Keeper {
  session: () => Session;
  /** renew fetches another token; false: there is none. */
  renew: () => Promise<boolean>;
  /** source gives out tokens; who asks it again was refused with the last one. */
  source: () => () => Promise<string>;
}

export function keep(session: Session): Keeper {
  let renewing: Promise<boolean> | null = null;

  const again = async (): Promise<boolean> => {
    const fresh = await fetchSessions().catch(() => []);
    const same = fresh.find((s) => s.name === session.name);
    session = same ?? session;
    renewing = null;
    return same !== undefined;
  };
  // The demo is asked once, however many calls were refused at the same time.
  const renew = async (): Promise<boolean> => isDemo && (renewing ??= again());

  const source = (): (() => Promise<string>) => {
    let given = "";
    return async () => {
      if (given === session.token) await renew();
      return (given = session.token);
    };
  };
  return { session: () => session, renew, source };
}
