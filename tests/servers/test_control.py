"""The control server: methods, pieces, limits, garbage; over a string transport, with the client's own codec."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.control.boxes import Box, Unpacker, pack
from qmailpy.control.client import Json
from qmailpy.control.commands import PIECE, REQUEST_LIMIT, RESPONSE_LIMIT, RemoteError
from qmailpy.errors import CommandError
from qmailpy.servers.control import CONNECTIONS, IDLE_S, ControlFactory, ControlProtocol, Registry


async def echo(**arguments: Json) -> Json:
    return arguments


class Session:
    """A client on the other end of a string transport."""

    def __init__(self, registry: Registry, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.factory = ControlFactory(registry, self.clock)
        made = self.factory.buildProtocol(None)
        assert made is not None
        self.protocol: ControlProtocol = made
        self.transport = StringTransport()
        self.protocol.makeConnection(self.transport)
        self.boxes = Unpacker(1 << 20)

    def ask(self, command: bytes, **arguments: bytes) -> Box | None:
        """The answer to a command, C{None} when there is none yet."""
        box = {b"_ask": b"1", b"_command": command, **{key.encode(): value for key, value in arguments.items()}}
        self.protocol.dataReceived(pack(box))
        return self.answer()

    def answer(self) -> Box | None:
        octets = self.transport.value()
        self.transport.clear()
        answers = self.boxes.feed(octets)
        return answers[0] if answers else None

    def call(self, method: str, arguments: object) -> Box | None:
        return self.ask(b"Call", method=method.encode(), octets=json.dumps(arguments).encode())


class Control(SynchronousTestCase):
    def setUp(self) -> None:
        self.registry = Registry()
        self.registry.add("test.echo", echo)
        self.session = Session(self.registry)

    def refusal(self, answer: Box | None) -> str:
        assert answer is not None
        self.assertEqual(answer.get(b"_error_code"), b"ERROR")
        return answer[b"_error_description"].decode()

    def test_a_method_gets_its_arguments_and_its_result_comes_back(self) -> None:
        answer = self.session.call("test.echo", {"a": [1, "ü", None]})
        assert answer is not None
        self.assertEqual(json.loads(answer[b"octets"]), {"a": [1, "ü", None]})
        self.assertEqual(answer[b"remaining"], b"0")

    def test_an_unknown_method_is_answered_with_an_error(self) -> None:
        self.assertIn("no such method", self.refusal(self.session.call("queue.\x1b[2J", {})))
        self.assertNotIn("\x1b", self.refusal(self.session.call("queue.\x1b[2J", {})))

    def test_a_process_that_starts_says_so_of_what_it_has_not_yet(self) -> None:
        """And not that there is no such method, to somebody who asks for the state of a server amid its start."""
        registry = Registry(whole=False)
        early = self.failureResultOf(Deferred.fromCoroutine(registry.call("watch.conditions", {})), RemoteError)
        self.assertEqual(str(early.value), "the process is starting; try again in a moment")
        registry.complete()
        late = self.failureResultOf(Deferred.fromCoroutine(registry.call("watch.conditions", {})), RemoteError)
        self.assertIn("no such method", str(late.value))

    def test_wrong_arguments_are_answered_with_an_error(self) -> None:
        async def one(number: int) -> Json:
            return number

        self.registry.add("test.one", one)
        self.assertIn("number", self.refusal(self.session.call("test.one", {})))
        self.assertIn("not a JSON object", self.refusal(self.session.call("test.one", [1])))
        answer = self.session.ask(b"Call", method=b"test.one", octets=b"{")
        self.assertIn("not JSON", self.refusal(answer))
        answer = self.session.ask(b"Call", method=b"test.one", octets=b"[" * 50000)
        self.assertIn("not JSON", self.refusal(answer))

    def test_a_refusal_of_the_method_reaches_the_caller(self) -> None:
        async def refuse() -> Json:
            raise CommandError("held by somebody else")

        self.registry.add("test.refuse", refuse)
        self.assertEqual(self.refusal(self.session.call("test.refuse", {})), "held by somebody else")

    def test_a_bug_is_logged_and_not_shown(self) -> None:
        async def bug() -> Json:
            raise ZeroDivisionError("secret")

        self.registry.add("test.bug", bug)
        self.assertNotIn("secret", self.refusal(self.session.call("test.bug", {})))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_result_that_is_not_json_is_a_bug(self) -> None:
        async def wrong() -> Json:
            return {1, 2}  # type: ignore[return-value]

        self.registry.add("test.wrong", wrong)
        self.assertIn("internal error", self.refusal(self.session.call("test.wrong", {})))
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_a_long_result_comes_in_pieces(self) -> None:
        async def long() -> Json:
            return "x" * (PIECE * 2)

        self.registry.add("test.long", long)
        answer = self.session.call("test.long", {})
        assert answer is not None
        octets = answer[b"octets"]
        while int(answer[b"remaining"]):
            answer = self.session.ask(b"Next")
            assert answer is not None
            octets += answer[b"octets"]
        self.assertEqual(json.loads(octets), "x" * (PIECE * 2))
        self.assertEqual(self.session.protocol._result, b"")

    def test_long_arguments_go_in_pieces_up_to_a_limit(self) -> None:
        request = json.dumps({"a": "x" * 100000}).encode()
        self.session.ask(b"Part", octets=request[:PIECE])
        answer = self.session.ask(b"Call", method=b"test.echo", octets=request[PIECE:])
        assert answer is not None
        self.assertEqual(answer[b"remaining"], b"%d" % (len(request) - PIECE))
        piece = bytes(60000)
        for _ in range(REQUEST_LIMIT // 60000):
            self.session.ask(b"Part", octets=piece)
        self.assertIn("longer than", self.refusal(self.session.ask(b"Part", octets=piece)))
        self.assertEqual(len(self.session.protocol._request), 0)

    def test_a_result_over_the_limit_is_refused(self) -> None:
        async def long() -> Json:
            return "x" * RESPONSE_LIMIT

        self.registry.add("test.long", long)
        self.assertIn("longer than", self.refusal(self.session.call("test.long", {})))

    def test_one_call_at_a_time(self) -> None:
        waiting: Deferred[None] = Deferred()

        async def wait() -> Json:
            await waiting
            return 1

        self.registry.add("test.wait", wait)
        self.assertIsNone(self.session.call("test.wait", {}))
        self.assertIn("under way", self.refusal(self.session.call("test.echo", {})))
        waiting.callback(None)
        answer = self.session.answer()
        assert answer is not None
        self.assertEqual(answer[b"octets"], b"1")

    def test_a_silent_connection_is_closed_but_not_while_a_method_runs(self) -> None:
        waiting: Deferred[None] = Deferred()

        async def wait() -> Json:
            await waiting
            return 1

        self.registry.add("test.wait", wait)
        self.session.call("test.wait", {})
        self.session.clock.pump([IDLE_S + 1, IDLE_S + 1])
        self.assertFalse(self.session.transport.disconnecting)
        waiting.callback(None)
        self.session.clock.pump([IDLE_S + 1, IDLE_S + 1])
        self.assertTrue(self.session.transport.disconnected or self.session.transport.disconnecting)

    def test_a_box_without_end_closes_the_connection(self) -> None:
        for number in range(100000):
            self.session.protocol.dataReceived(b"\0\6%06d\0\1x" % number)
            if self.session.transport.disconnected or self.session.transport.disconnecting:
                break
        self.assertLess(number, 30000)

    @settings(max_examples=50)
    @given(st.lists(st.binary(max_size=200), max_size=10))
    def test_garbage_never_raises(self, pieces: list[bytes]) -> None:
        session = Session(self.registry)
        for piece in pieces:
            session.protocol.dataReceived(piece)
        self.flushLoggedErrors()

    def test_connections_are_limited_and_freed(self) -> None:
        factory = self.session.factory
        made = [factory.buildProtocol(None) for _ in range(CONNECTIONS)]
        self.assertIsNone(made[-1])
        first = made[0]
        assert first is not None
        first.on_lost()
        self.assertIsNotNone(factory.buildProtocol(None))

    def test_a_name_is_registered_once(self) -> None:
        self.assertRaises(ValueError, self.registry.add, "test.echo", echo)
