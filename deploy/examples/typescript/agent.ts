// An agent whose every action is counted once, however often it is killed.
//
//   node agent.js mail-1 mail-2
//
// Before it acts, it writes the whole event, its key above all, into a journal
// on disk; it only ever publishes what it wrote. The next run finishes what this
// one left, with the same bytes, and Odometer counts the same key once.

import { createHash } from "node:crypto";
import { fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { jetstream } from "@nats-io/jetstream";
import { connect, type NatsConnection } from "@nats-io/transport-node";

const tenant = process.env.TENANT ?? "a1b0c0de-0000-4000-8000-000000000001"; // Acme, in the demo

interface Entry {
  key: string;
  subject: string;
  payload: string;
  state: "begun" | "acted" | "published";
}

/** A file to which lines are only added; the last one of a key is what holds. */
class Journal {
  readonly entries = new Map<string, Entry>();
  private readonly file: number;

  constructor(path: string) {
    this.file = openSync(path, "a+");
    fsyncSync(openSync(dirname(path), "r")); // the file's name, too, outlives a power cut
    const text = readFileSync(this.file, "utf8");
    // A line without its end was cut off by a crash: nobody acted on it.
    const whole = text.slice(0, text.lastIndexOf("\n") + 1);
    ftruncateSync(this.file, Buffer.byteLength(whole));
    for (const line of whole.split("\n").filter(Boolean)) {
      const entry = JSON.parse(line) as Entry;
      this.entries.set(entry.key, entry);
    }
  }

  write(entry: Entry): void {
    writeSync(this.file, JSON.stringify(entry) + "\n");
    fsyncSync(this.file); // on the disk, not on its way there
    this.entries.set(entry.key, entry);
  }
}

/** Makes the event and stores it, unless this mail is in the journal already. */
function begin(journal: Journal, mail: string): boolean {
  // The key comes from the work, not from the clock or chance: whoever meets
  // this mail again, in any process, makes the same key.
  const key = `email:${mail}`;
  if (journal.entries.has(key)) return false;
  const event = { idempotency_key: key, action_type: "email_processed", occurred_at: new Date().toISOString() };
  journal.write({ key, subject: `usage.${tenant}.inbox`, payload: JSON.stringify(event), state: "begun" });
  return true;
}

/** Here the agent works. After a crash it acts again on what was only begun, so
 * it hands the key on to what it calls, as that one's idempotency key. */
async function act(key: string): Promise<void> {
  await pause(1000 * Number(process.env.ACT_SECONDS ?? "0.2"));
}

/** Sends the same bytes until the stream says that it has stored them. */
async function publish(nc: NatsConnection, { subject, payload }: Entry): Promise<number> {
  // Lets the stream swallow a quick repeat. It must be the hash of the content:
  // with any other id, the key for one, another event could be swallowed.
  const msgID = createHash("sha256").update(subject).update(payload).digest("base64url");
  for (let wait = 100; ; wait = Math.min(2 * wait, 5000)) {
    try {
      return (await jetstream(nc).publish(subject, payload, { msgID, timeout: 5000 })).seq;
    } catch (why) {
      if (nc.isClosed()) throw why;
      console.error(`not stored yet, trying again: ${why}`);
    }
    await pause(wait); // full or away: nothing is dropped, the agent waits
  }
}

/** Brings what was begun to its end: a crash leaves nothing but such entries. */
async function finish(journal: Journal, nc: NatsConnection): Promise<void> {
  for (const entry of [...journal.entries.values()].filter((e) => e.state !== "published")) {
    if (entry.state === "begun") {
      await act(entry.key);
      journal.write({ ...entry, state: "acted" });
      console.log("acted", entry.key);
    }
    const seq = await publish(nc, entry);
    journal.write({ ...entry, state: "published" });
    console.log("published", entry.key, "as", seq);
  }
}

const journal = new Journal(process.env.JOURNAL ?? "journal.ndjson");
const servers = process.env.NATS_URL ?? "nats://127.0.0.1:4222";
const nc = await connect({ servers, maxReconnectAttempts: -1, waitOnFirstConnect: true });
await finish(journal, nc);
for (const mail of process.argv.slice(2)) {
  console.log(begin(journal, mail) ? "begun" : "known", `email:${mail}`);
  await finish(journal, nc);
}
await nc.close();
