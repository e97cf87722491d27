"""
The other side: senders that remember every 250, and a sink for remote mail. Both run in a thread of their own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from random import Random

from benchmarks.mailing import (
    LATER,
    PIECES,
    REFUSED,
    SENDER,
    Fate,
    Ledger,
    Mail,
    compose,
    digest_after_mark,
    digests_of_pieces,
    in_pieces,
)
from benchmarks.node import DOMAIN

ANSWER_S = 20.0
LINE_LIMIT = 4096
IN_TURN = 60
"""So many messages for channels of every kind are not left to chance."""

IN_PIECES = 15
"""Of so many messages one is sent in pieces, where channels of every kind are busy."""

SINK_LIMIT = 4 * 1024 * 1024


class Hung(OSError):
    """The connection is of no use any more."""


class Load:
    """Senders and sink; start and stop them from another thread."""

    def __init__(
        self, *, port: Callable[[], int], sink: int, senders: int, seed: int, pause_s: float, wide: bool = False
    ) -> None:
        """
        @param port: where the server listens now.
        @param sink: port of 127.0.0.1 for the sink.
        @param pause_s: about how long a sender waits between two messages.
        @param wide: mail for channels of every kind.
        """
        self._wide = wide
        self.ledger = Ledger()
        self._port = port
        self._sink_port = sink
        self._count = senders
        self._seed = seed
        self._pause_s = pause_s
        self._serial = 0
        self._running = threading.Event()
        self._busy = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._thd_run, daemon=True, name="load")
        self._problem: BaseException | None = None

    # --- from outside ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the sink; senders begin with L{go}. @raise OSError: its port cannot be had."""
        self._thread.start()
        self._ready.wait(10)
        if self._problem is not None:
            raise OSError(f"the sink: {self._problem}")

    def go(self) -> None:
        """Send."""
        self._running.set()

    def pause(self, limit_s: float = 2 * ANSWER_S) -> None:
        """Stop sending; on return no answer is outstanding. @raise OSError: senders hang."""
        self._running.clear()
        deadline = threading.Event()
        for _ in range(int(limit_s / 0.05)):
            if not self._busy:
                return
            deadline.wait(0.05)
        raise OSError(f"{self._busy} senders still wait for an answer after {limit_s:.0f} s")

    def stop(self) -> None:
        """End everything."""
        self._running.clear()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    # --- the thread ------------------------------------------------------------------------------------------

    def _thd_run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._begin())
        except OSError as problem:
            self._problem = problem
            self._ready.set()
            return
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _begin(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._sink_port, limit=SINK_LIMIT)
        self._senders = [
            self._loop.create_task(self._sender(Random(self._seed * 1000 + number)))  # noqa: S311 - reproducible
            for number in range(self._count)
        ]

    async def _sender(self, chance: Random) -> None:
        while True:
            if not self._running.is_set():
                await asyncio.sleep(0.02)
                continue
            self._busy += 1
            try:
                await self._session(chance)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.05)  # the server is down: that is what this is about
            finally:
                self._busy -= 1

    async def _session(self, chance: Random) -> None:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", self._port()), ANSWER_S)
        try:
            await _expect(reader, "220")
            await _ask(reader, writer, b"EHLO load.example.net\r\n", "250")
            for _ in range(chance.choice((1, 1, 5, 20))):
                if not self._running.is_set():
                    break
                await self._message(reader, writer, chance)
                await asyncio.sleep(chance.uniform(0.0, 2 * self._pause_s))
            writer.write(b"QUIT\r\n")
        finally:
            writer.close()

    async def _message(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: Random) -> None:
        self._serial += 1
        token = f"T{self._seed}x{self._serial}"
        if self._wide and self._serial % IN_PIECES == 0:
            for mail in in_pieces(token, chance):
                await self._send(reader, writer, chance, mail)
            return
        turn = self._serial if self._wide and self._serial <= IN_TURN else -1
        await self._send(reader, writer, chance, compose(token, chance, wide=self._wide, turn=turn))

    async def _send(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: Random, mail: Mail
    ) -> None:
        sent = mail.sent
        self.ledger.sent[sent.token] = sent
        await _envelope(reader, writer, mail, pipelined=chance.random() < 0.5)
        if not sent.accepted:
            sent.fate = Fate.REFUSED
            await _ask(reader, writer, b"RSET\r\n", "250")
            return
        if await _ask(reader, writer, b"DATA\r\n") != "354":
            sent.fate = Fate.REFUSED
            return
        body = mail.content.replace(b"\r\n.", b"\r\n..")
        # In two pieces now and then, so that a kill can strike in the middle of the content.
        cut = chance.randrange(len(body)) if chance.random() < 0.3 else 0
        if cut:
            writer.write(body[:cut])
            await writer.drain()
            await asyncio.sleep(chance.uniform(0.0, 0.05))
        code = await _ask(reader, writer, body[cut:] + b".\r\n")
        sent.fate = Fate.ACCEPTED if code == "250" else Fate.REFUSED
        if code == "421":
            raise Hung("421")

    # --- the sink --------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._take(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipients: list[str] = []
        lmtp = False
        writer.write(b"220 sink.example ESMTP\r\n")
        while True:
            line = (await reader.readuntil(b"\r\n")).decode("latin-1").rstrip("\r\n")
            verb = line[:4].upper()
            if verb in ("EHLO", "LHLO"):
                lmtp = verb == "LHLO"
                writer.write(b"250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 52428800\r\n")
            elif verb == "RCPT":
                writer.write(self._recipient(line[9:].partition(">")[0], recipients))
            elif verb == "DATA" and recipients:
                writer.write(b"354 go ahead\r\n")
                await writer.drain()
                self._arrived(await _content(reader), recipients)
                writer.write(b"250 2.0.0 taken\r\n" * (len(recipients) if lmtp else 1))
                recipients = []
            elif verb == "DATA":
                writer.write(b"554 5.5.1 no recipients\r\n")
            elif verb == "QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                await writer.drain()
                return
            else:
                if verb in ("MAIL", "RSET", "HELO"):
                    recipients = []
                writer.write(b"250 2.0.0 ok\r\n")
            await writer.drain()

    def _recipient(self, address: str, recipients: list[str]) -> bytes:
        if address.startswith(REFUSED):
            return b"550 5.1.1 nobody of that name\r\n"
        if address.startswith(LATER) and address not in self.ledger.put_off:
            self.ledger.put_off.add(address)
            return b"451 4.2.1 come back later\r\n"
        recipients.append(address)
        return b"250 2.1.5 ok\r\n"

    def _arrived(self, octets: bytes, recipients: list[str]) -> None:
        for address in recipients:
            parts = digests_of_pieces(octets) if address.endswith(f"@{PIECES}") else [digest_after_mark(octets)]
            self.ledger.wholes += len(parts) > 1
            for token, digest in parts:
                self.ledger.arrived.setdefault((token, address), []).append(digest)


async def _content(reader: asyncio.StreamReader) -> bytes:
    """Message content up to the final dot, dots removed. Read by lines: a dot may be alone on the first."""
    lines = []
    while (line := await reader.readuntil(b"\r\n")) != b".\r\n":
        lines.append(line[1:] if line.startswith(b".") else line)
    return b"".join(lines)


async def _envelope(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mail: Mail, *, pipelined: bool) -> None:
    """MAIL and RCPT; notes who was accepted."""
    sent = mail.sent
    commands = [f"MAIL FROM:<{SENDER}@{DOMAIN}> SIZE={sent.size}\r\n".encode()]
    commands += [f"RCPT TO:<{recipient}>\r\n".encode() for recipient in sent.recipients]
    codes = []
    if pipelined:
        writer.write(b"".join(commands))
        codes = [await _expect(reader) for _ in commands]
    else:
        for command in commands:
            codes.append(await _ask(reader, writer, command))
    sent.accepted = tuple(
        recipient for recipient, code in zip(sent.recipients, codes[1:], strict=True) if code == "250"
    )


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, octets: bytes, code: str = "") -> str:
    writer.write(octets)
    await asyncio.wait_for(writer.drain(), ANSWER_S)
    return await _expect(reader, code)


async def _expect(reader: asyncio.StreamReader, code: str = "") -> str:
    """The code of the next reply. @raise OSError: another one than C{code}, or the end of the connection."""
    while True:
        line = await asyncio.wait_for(reader.readuntil(b"\r\n"), ANSWER_S)
        if len(line) > LINE_LIMIT or len(line) < 5:
            raise Hung("no reply")
        if line[3:4] != b"-":
            got = line[:3].decode("latin-1")
            if (code and got != code) or got == "421":
                raise Hung(f"{got} instead of {code or 'a reply'}")
            return got
