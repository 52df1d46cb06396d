// Calls of the HTTP API with the session's token. What it refuses becomes a
// Problem that says what a person can do about it.

import { learnClock } from "./format.ts";

export type Query = Record<string, string | number | null | undefined>;

const REFUSING_TENANT = ["forbidden", "subscription-inactive", "no-subscription", "no-plan"].map(
  (name) => `/problems/${name}`,
);

/** Problem is a refusal: an RFC 9457 document, or no answer at all (status 0). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    detail: string,
    readonly retryAfter: number | null, // seconds
    readonly type = "", // "/problems/…"
  ) {
    super(detail);
  }

  /** refusesTenant is whether whatever else the token may read is refused alike. */
  get refusesTenant(): boolean {
    return REFUSING_TENANT.includes(this.type);
  }
}

/** Bearer has the token. */
export interface Bearer {
  token(): string;
  /** renew fetches another token; false: there is none. */
  renew(): Promise<boolean>;
  /** refused is called when the API takes no token of this bearer any more. */
  refused(why: string): void;
}

export class Api {
  constructor(private readonly bearer: Bearer) {}

  async get<T>(path: string, query: Query, signal: AbortSignal): Promise<T> {
    const answer = await this.send(address(path, query), { headers: { Accept: "application/json" }, signal });
    return answer.json().catch(unreachable(signal));
  }

  async post<T>(path: string, body: unknown, signal: AbortSignal): Promise<T> {
    const headers = { Accept: "application/json", "Content-Type": "application/json" };
    const answer = await this.send(path, { method: "POST", headers, body: JSON.stringify(body), signal });
    return answer.json().catch(unreachable(signal));
  }

  /** csv fetches a table as a file: a link could not carry the token. */
  async csv(path: string, query: Query, signal: AbortSignal): Promise<Blob> {
    const answer = await this.send(address(path, query), { headers: { Accept: "text/csv" }, signal });
    return answer.blob().catch(unreachable(signal));
  }

  private async send(url: string, init: RequestInit, again = true): Promise<Response> {
    const headers = {
      ...(init.headers as Record<string, string>),
      Authorization: `Bearer ${this.bearer.token()}`,
    };
    try {
      return await request(url, { ...init, headers });
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 401) throw error;
      if (again && (await this.bearer.renew())) return this.send(url, init, false);
      this.bearer.refused(error.message);
      throw error;
    }
  }
}

// patience is how long an answer may take to begin, in milliseconds: longer than
// the service itself lets a read take.
const patience = 25_000;

/** request is a fetch whose refusals are Problems. */
export async function request(url: string, init: RequestInit): Promise<Response> {
  // A server that takes the call and never answers must not look alive. What
  // comes after the headers may take long: a file does.
  const silence = new AbortController();
  const timer = setTimeout(() => silence.abort(), patience);
  const signal = init.signal ? AbortSignal.any([init.signal, silence.signal]) : silence.signal;
  const answer = await fetch(url, { ...init, signal })
    .catch(unreachable(init.signal))
    .finally(() => clearTimeout(timer));
  learnClock(answer.headers.get("Date"));
  if (!answer.ok) throw await readProblem(answer);
  return answer;
}

// unreachable turns a broken connection into a Problem; a call that was given up is none.
const unreachable =
  (signal: AbortSignal | null | undefined) =>
  (cause: unknown): never => {
    if (signal?.aborted) throw cause;
    throw new Problem(0, "No answer", "The server cannot be reached.", 5);
  };

function address(path: string, query: Query): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") search.set(name, String(value));
  }
  const text = search.toString();
  return text ? `${path}?${text}` : path;
}

async function readProblem(answer: Response): Promise<Problem> {
  const said = (await answer.json().catch(() => ({}))) as { type?: string; title?: string; detail?: string };
  const seconds = Number(answer.headers.get("Retry-After") ?? "");
  return new Problem(
    answer.status,
    said.title ?? `HTTP ${answer.status}`,
    said.detail ?? `The server answered ${answer.status} without saying why.`,
    seconds > 0 ? seconds : null,
    said.type,
  );
}
