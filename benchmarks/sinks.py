"""
A sink that is not the easy one smtp-sink is: C{python -m benchmarks.sinks PORT [--delay S] [--later SHARE]}.

It offers what common servers do (PIPELINING, 8BITMIME) and says how many messages it has as smtp-sink -c does. With
C{--delay} everything it says comes so late; with C{--later} of 10 every tenth recipient is answered 451.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

SHOW_S = 0.02


class Sink:
    """What its connections share."""

    def __init__(self, delay_s: float, later: int) -> None:
        """@param later: each so many-th recipient is refused for now; 0 = none."""
        self.delay_s = delay_s
        self.messages = 0
        self._later = later
        self._recipients = 0

    def refuses(self) -> bool:
        """Whether this recipient is."""
        self._recipients += 1
        return self._later > 0 and self._recipients % self._later == 0


class Connection(asyncio.Protocol):
    """Answers what it has read, all at once."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._input = b""
        self._content = False
        self._taken = 0  # recipients of this message

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._say(b"220 sink.example ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._input += data
        said = []
        while True:
            if self._content:
                # The dot of a message without lines is not asked for: nobody here sends one.
                end = self._input.find(b"\r\n.\r\n")
                if end < 0:
                    self._input = self._input[-4:]
                    break
                self._input = self._input[end + 5 :]
                self._content = False
                self._sink.messages += 1
                said.append(b"250 2.0.0 taken\r\n")
                continue
            line, found, rest = self._input.partition(b"\r\n")
            if not found:
                break
            self._input = rest
            said.append(self._command(line[:4].upper()))
        if said:
            self._say(b"".join(said))

    def _command(self, verb: bytes) -> bytes:
        if verb == b"EHLO":
            return b"250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"
        if verb == b"MAIL":
            self._taken = 0
        elif verb == b"RCPT":
            if self._sink.refuses():
                return b"451 4.2.1 come back later\r\n"
            self._taken += 1
        elif verb == b"DATA":
            if not self._taken:
                return b"554 5.5.1 no recipients\r\n"
            self._content = True
            return b"354 go ahead\r\n"
        elif verb == b"QUIT":
            return b"221 2.0.0 bye\r\n"
        return b"250 2.0.0 ok\r\n"

    def _say(self, octets: bytes) -> None:
        if self._sink.delay_s:
            asyncio.get_running_loop().call_later(self._sink.delay_s, self._write, octets)
        else:
            self._write(octets)

    def _write(self, octets: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(octets)
            if octets.endswith(b"221 2.0.0 bye\r\n"):
                self._transport.close()


async def _run(port: int, sink: Sink) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(sink), "127.0.0.1", port, backlog=1000)
    async with server:
        shown = -1
        while True:
            if sink.messages != shown:
                shown = sink.messages
                sys.stdout.write(f"mesg={shown}\r")
                sys.stdout.flush()
            await asyncio.sleep(SHOW_S)


def main() -> None:
    """Never returns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--later", type=int, default=0)
    arguments = parser.parse_args()
    asyncio.run(_run(arguments.port, Sink(arguments.delay, arguments.later)))


if __name__ == "__main__":
    main()
