"""Stands in for nats-py where no registry of Python packages can be reached: as
much of its interface as agent.py uses, in the real protocol to a real server."""

import asyncio
import json
import types
import uuid


class Error(Exception):
    pass


errors = types.SimpleNamespace(Error=Error)


async def connect(url, max_reconnect_attempts):
    host, port = url.removeprefix("nats://").split(":")
    nc = Connection(*await asyncio.open_connection(host, int(port)))
    nc.writer.write(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB answer.* 1\r\n')
    return nc


class Connection:
    is_closed = False

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def jetstream(self):
        return self

    async def publish(self, subject, payload, timeout, headers):
        reply = f"answer.{uuid.uuid4()}"
        head = b"NATS/1.0\r\n" + b"".join(f"{k}: {v}\r\n".encode() for k, v in headers.items()) + b"\r\n"
        command = f"HPUB {subject} {reply} {len(head)} {len(head) + len(payload)}\r\n"
        self.writer.write(command.encode() + head + payload + b"\r\n")
        answer = await asyncio.wait_for(self.answer(reply), timeout)
        if "error" in answer:
            raise Error(answer["error"]["description"])
        return types.SimpleNamespace(seq=answer["seq"])

    async def answer(self, reply):
        while True:
            words = (await self.reader.readline()).decode().split()
            if not words:
                self.is_closed = True
                raise Error("connection closed")
            if words[0] == "PING":
                self.writer.write(b"PONG\r\n")
            elif words[0] == "-ERR":
                raise Error(" ".join(words))
            elif words[0] in ("MSG", "HMSG"):
                body = (await self.reader.readexactly(int(words[-1]) + 2))[:-2]
                if words[1] == reply:
                    return json.loads(body) if words[0] == "MSG" else {"error": {"description": "no stream"}}

    async def close(self):
        self.writer.close()
        await self.writer.wait_closed()
