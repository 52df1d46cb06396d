"""An agent whose every action is counted once, however often it is killed.

    python3 agent.py mail-1 mail-2

Before it acts, it writes the whole event, its key above all, into a journal on
disk; it only ever publishes what it wrote. The next run finishes what this one
left, with the same bytes, and Odometer counts the same key once.
"""

import asyncio
import base64
import hashlib
import json
import os
import sqlite3
import sys
from datetime import datetime, timezone

import nats

TENANT = os.environ.get("TENANT", "a1b0c0de-0000-4000-8000-000000000001")  # Acme, in the demo


def open_journal(path):
    journal = sqlite3.connect(path, isolation_level=None)  # each statement is a transaction
    journal.execute("pragma synchronous = extra")  # that is on the disk when it returns
    journal.execute("create table if not exists events (key text primary key, subject text, payload text, state text)")
    return journal


def begin(journal, mail):
    """Make the event and store it. False: this mail is in the journal already."""
    # The key comes from the work, not from the clock or chance: whoever meets
    # this mail again, in any process, makes the same key.
    key = f"email:{mail}"
    payload = json.dumps({
        "idempotency_key": key,
        "action_type": "email_processed",
        "occurred_at": datetime.now(timezone.utc).isoformat(),
    })
    return journal.execute(
        "insert or ignore into events values (?, ?, ?, 'begun')", (key, f"usage.{TENANT}.inbox", payload)
    ).rowcount == 1


def mark(journal, key, state):
    journal.execute("update events set state = ? where key = ?", (state, key))


async def act(key):
    """Here the agent works. After a crash it acts again on what was only begun,
    so it hands the key on to what it calls, as that one's idempotency key."""
    await asyncio.sleep(float(os.environ.get("ACT_SECONDS", "0.2")))


def message_id(subject, payload):
    """Lets the stream swallow a quick repeat. It must be the hash of the content:
    with any other id, the key for one, another event could be swallowed."""
    digest = hashlib.sha256(subject.encode() + payload).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


async def publish(nc, subject, payload):
    """Send the same bytes until the stream says that it has stored them."""
    pause = 0.1
    while True:
        try:
            headers = {"Nats-Msg-Id": message_id(subject, payload)}
            return await nc.jetstream().publish(subject, payload, timeout=5, headers=headers)
        except (nats.errors.Error, asyncio.TimeoutError) as why:
            if nc.is_closed:
                raise
            print(f"not stored yet, trying again: {why}", file=sys.stderr)
        await asyncio.sleep(pause)  # full or away: nothing is dropped, the agent waits
        pause = min(2 * pause, 5)


async def finish(journal, nc):
    """Bring what was begun to its end: a crash leaves nothing but such rows."""
    unfinished = "select key, subject, payload, state from events where state <> 'published' order by rowid"
    for key, subject, payload, state in journal.execute(unfinished).fetchall():
        if state == "begun":
            await act(key)
            mark(journal, key, "acted")
            print("acted", key, flush=True)
        ack = await publish(nc, subject, payload.encode())
        mark(journal, key, "published")  # rows older than 90 days can be deleted
        print("published", key, "as", ack.seq, flush=True)


async def main(mails):
    journal = open_journal(os.environ.get("JOURNAL", "journal.db"))
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1)
    await finish(journal, nc)
    for mail in mails:
        print("begun" if begin(journal, mail) else "known", f"email:{mail}", flush=True)
        await finish(journal, nc)
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
