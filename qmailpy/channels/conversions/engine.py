"""
The conversion of one message: which entries fit it and its parts, and what comes of it.

Three steps. In a thread the message is walked once: parts that an entry fits are decoded, and what is built in is
done at once; a part for a command is put in a file. Then the commands run, one after the other, beside the reactor.
In a thread again the message is walked a second time and written anew, all that was not touched octet for octet. When
nothing was touched there is no third step, and the message goes on as it came. Memory holds one part at a time, and
no part that is larger than C{[limits] part_octets}.

Whatever goes wrong on our side is L{Kind.AGAIN}: the message waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from attrs import Factory, define

from qmailpy.channels.conversions.asking import (
    media_of,
    thd_equal,
    thd_header,
    thd_input,
    thd_is_there,
    thd_judge,
    thd_options,
    thd_prepare,
)
from qmailpy.channels.conversions.builtin import BUILT_IN
from qmailpy.channels.conversions.command import Answer, Ended, Invocation, Run
from qmailpy.channels.conversions.entry import Decided, Entry, Kind, Mail, Outcome
from qmailpy.channels.conversions.part import Draft, Part, part_of, pieces, with_crlf
from qmailpy.channels.conversions.scratch import Scratch, thd_content
from qmailpy.config.conversion_schema import ConversionsConfig
from qmailpy.interfaces import InThread
from qmailpy.values import Content, one_line
from qmailpy.wire.mime import Body, Delimiter, Entity, Filler, MimeLimits, MimeVerdict, MimeWalker, PartBegin, PartEnd
from qmailpy.wire.mime_encoding import Decoder, decodable
from qmailpy.wire.mime_rewrite import Replacement, rewritten

Note = Callable[[str, str, int, str, str], None]
"""Told of each part: path, what it is, octets, the entry that fits (or ""), what was done."""

_GUARDING = frozenset({"command", "delete", "replace", "hold", "return", "discard"})
"""Actions of entries that somebody relies on: what they were not shown must not pass in silence."""

_BEYOND = {
    MimeVerdict.TOO_DEEP: "its parts are nested too deep to be looked at",
    MimeVerdict.TOO_MANY_PARTS: "it has too many parts to be looked at",
    MimeVerdict.HEADER_TOO_LARGE: "a header in it is too large to be looked at",
}

_MESSAGE = Part(ordinal=0, path="", type="message", subtype="rfc822", encoding="")
"""The message as a whole, for commands."""

HELD = 131_072
"""Octets of all new bodies that are kept in memory; further ones are in files."""


@define(eq=False)
class _Waiting:
    """A part that waits for a command."""

    draft: Draft
    entries: list[Entry]  # that fit, the one of the command first


@define(eq=False)
class _Collected:
    """A part whose octets are being gathered."""

    entity: Entity
    part: Part
    entries: list[Entry]  # that fit but for the size
    decoder: Decoder
    keep: bool = True  # its data is wanted
    size: int = 0
    chunks: list[bytes] = Factory(list)
    held: int = 0
    path: str = ""
    file: Any = None


class Converter:
    """What a table of conversions does with messages."""

    def __init__(self, config: ConversionsConfig, *, in_thread: InThread, run: Run | None, root: str) -> None:
        """
        @param run: C{None}: commands are not run, and what they would be given stays as it is.
        @param root: directory for files.
        """
        limits = config.limits
        self.entries = [Entry.of(one, number) for number, one in enumerate(config.entries, 1)]
        self.limits = MimeLimits(depth=limits.depth, parts=limits.parts, header_octets=limits.header_octets)
        self._part_octets = limits.part_octets
        self._hold_broken = limits.broken == "hold"
        self.beyond = {"hold": Kind.HOLD, "return": Kind.RETURN}.get(limits.beyond)  # C{None}: it passes
        self._in_thread = in_thread
        self._run = run
        self._root = root

    def alike(self, recipients: Sequence[str]) -> list[tuple[int, ...]]:
        """Recipients sorted by which entries are for them: positions in C{recipients}; each set is one message."""
        picky = [entry for entry in self.entries if entry.config.recipient]
        if not picky:
            return [tuple(range(len(recipients)))]
        found: dict[tuple[bool, ...], list[int]] = {}
        for position, address in enumerate(recipients):
            found.setdefault(tuple([entry.recipient.fit(address) for entry in picky]), []).append(position)
        return [tuple(positions) for positions in found.values()]

    async def convert(self, mail: Mail, note: Note | None = None) -> Outcome:
        """
        Convert a message.

        @param mail: its recipients are L{alike}.
        @return: never fails for what is in the message.
        @raise OSError: the content cannot be read, or a file not be written.
        """
        entries = [
            entry
            for entry in self.entries
            if entry.for_mail(mail)
            and all(entry.recipient.fit(one) for one in mail.recipients[:1])
            and not (mail.released and entry.config.action == "hold")
        ]
        if not entries and note is None and (mail.released or not self._hold_broken):
            return Outcome(kind=Kind.SAME)
        conversion = _Conversion(self, mail, entries, note, Scratch(self._root))
        try:
            return await conversion.outcome(self._in_thread, self._run)
        except Decided as decided:
            return Outcome(kind=decided.kind, text=decided.text, journals=tuple(conversion.journals))
        finally:
            if conversion.scratch.used:
                await self._in_thread(conversion.scratch.thd_remove)

    @property
    def part_octets(self) -> int:
        """The largest part for what is built in."""
        return self._part_octets

    @property
    def hold_broken(self) -> bool:
        return self._hold_broken

    @property
    def root(self) -> str:
        return self._root


class _Conversion:
    """One message."""

    def __init__(
        self, converter: Converter, mail: Mail, entries: list[Entry], note: Note | None, scratch: Scratch
    ) -> None:
        self.scratch = scratch
        self.journals: list[Entry] = []
        self._converter = converter
        self._mail = mail
        self._content: Content = mail.content
        self._parts = [entry for entry in entries if not entry.config.whole]
        self._whole = [entry for entry in entries if entry.config.whole]
        self._note = note
        self._plan: dict[int, Replacement | None] = {}
        self._waiting: list[_Waiting] = []
        self._attachments = 0
        self._held = 0
        self._header = b""  # the message's own
        self._holds_broken = converter.hold_broken and not mail.released

    async def outcome(self, in_thread: InThread, run: Run | None) -> Outcome:
        """
        @raise Decided: an entry decides about the whole.
        """
        changed = False
        for entry in self._whole:
            if not entry.for_size(self._content.size):
                continue
            if entry.config.action == "command":
                changed = await self._command_on_all(entry, in_thread, run) or changed
            else:
                self._decide(entry)
            if not entry.config.go_on:
                break
        if self._parts or self._note is not None or self._holds_broken:
            await in_thread(self._thd_walk)
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                for one in waiting:
                    await self._command_on_part(one, in_thread, run)
                    await in_thread(self._thd_advance, one.draft, one.entries)
        if self._plan:
            chunks = partial(rewritten, self._content.chunks(), self._plan, self._converter.limits)
            self._content = await in_thread(lambda: thd_content(self._converter.root, chunks()))
            changed = True
        journals = tuple(self.journals)
        if not changed:
            return Outcome(kind=Kind.SAME, journals=journals)
        return Outcome(kind=Kind.CHANGED, content=self._content, journals=journals)

    def _decide(self, entry: Entry) -> None:
        """An action on the whole message that is no command."""
        action, text = entry.config.action, entry.config.text
        if action == "journal":
            self.journals.append(entry)
            self._say("", "message", self._content.size, entry, f"copy to {entry.config.address}")
        elif action in ("hold", "return", "discard"):
            self._say("", "message", self._content.size, entry, action)
            raise Decided(Kind(action), one_line(text) or f"by {entry.called} of conversions.toml")
        else:
            self._say("", "message", self._content.size, entry, action)

    def _say(self, path: str, what: str, size: int, entry: Entry | None, did: str) -> None:
        if self._note is not None:
            self._note(path, what, size, entry.called if entry is not None else "", did)

    # --- the walk --------------------------------------------------------------------------------------------

    def _thd_walk(self) -> None:
        walker = MimeWalker(self._converter.limits)
        collected: _Collected | None = None
        for events in self._events(walker):
            for event in events:
                if isinstance(event, PartBegin):
                    if not event.entity.ordinal:
                        self._header = event.entity.header
                    if collected is None:
                        collected = self._begin(event.entity)
                    else:
                        self._gather(collected, event.octets)
                elif collected is None:
                    continue
                elif isinstance(event, PartEnd) and event.entity is collected.entity:
                    self._end(collected)
                    collected = None
                elif isinstance(event, (Body, Filler, Delimiter)):
                    self._gather(collected, event.octets)
        if walker.verdict is not MimeVerdict.OK:
            self._say("", "structure", self._content.size, None, walker.verdict.value)
            self._judge(walker.verdict)

    def _judge(self, verdict: MimeVerdict) -> None:
        """What becomes of a message whose structure is not in order; an operator who has released it knows."""
        if verdict is MimeVerdict.MALFORMED:
            if self._holds_broken:
                raise Decided(Kind.HOLD, f"the structure of the message is {verdict.value}")
            return
        kind = self._converter.beyond
        if kind is None or (kind is Kind.HOLD and self._mail.released):
            return
        if self._holds_broken or any(entry.config.action in _GUARDING for entry in self._parts):
            raise Decided(kind, _BEYOND[verdict])

    def _events(self, walker: MimeWalker) -> Iterator[list[Any]]:
        for chunk in self._content.chunks():
            yield walker.feed(chunk)
        yield walker.end()

    def _begin(self, entity: Entity) -> _Collected | None:
        part = part_of(entity, self._attachments)
        self._attachments = max(self._attachments, part.attachment)
        entries = [entry for entry in self._parts if entry.for_part(part)]
        if part.container and entries and all(entry.config.action == "strip" for entry in entries):
            draft = Draft(part=part, header=entity.header)
            self._thd_advance(draft, entries)  # its header alone; its parts come by themselves
            return None
        if not entries and self._note is None:
            return None
        if not entries and part.container:
            self._say(part.path, part.media, 0, None, "")
            return None
        usable = part.container or decodable(part.encoding)
        if entries and not usable:
            entries = [entry for entry in entries if entry.config.action not in ("command", *BUILT_IN)]
        decoder = Decoder("" if part.container else part.encoding)
        return _Collected(entity, part, entries, decoder, keep=bool(entries))

    def _gather(self, collected: _Collected, octets: bytes) -> None:
        collected.size += len(octets)
        if not collected.keep:
            return
        data = collected.decoder.feed(octets)
        if collected.file is not None:
            collected.file.write(data)
            return
        collected.chunks.append(data)
        collected.held += len(data)
        if collected.held > self._converter.part_octets:
            if any(entry.config.action == "command" for entry in collected.entries):
                collected.path = self.scratch.thd_file("part")
                collected.file = open(collected.path, "xb")  # noqa: SIM115 - closed at its end
                collected.file.write(b"".join(collected.chunks))
            else:
                collected.keep = False
            collected.chunks = []

    def _end(self, collected: _Collected) -> None:
        part, size = collected.part, collected.size
        entries = [entry for entry in collected.entries if entry.for_size(size)]
        rest = collected.decoder.end() if collected.keep else b""
        data: bytes | None = None
        if collected.file is not None:
            collected.file.write(rest)
            collected.file.close()
        elif collected.keep:
            data = b"".join([*collected.chunks, rest])
        draft = Draft(
            part=part, header=collected.entity.header, data=data, path=collected.path, size=size, large=data is None
        )
        if not entries:
            self._say(part.path, _what(part), size, None, "")
        else:
            self._thd_advance(draft, entries)

    def _thd_advance(self, draft: Draft, entries: list[Entry]) -> None:
        """
        Do what is built in until a command comes, which waits for its turn, or nothing comes any more.

        @param entries: that fit the part; used up.
        """
        while entries:
            entry = entries[0]
            action = entry.config.action
            if action == "command":
                if not draft.path:
                    draft.path = self.scratch.thd_write("part", [draft.data or b""])
                    draft.data = None
                self._waiting.append(_Waiting(draft, entries))
                return
            entries.pop(0)
            did = self._apply(draft, entry)
            self._say(draft.part.path, _what(draft.part), draft.size, entry, did)
            if draft.deleted or not entry.config.go_on or action == "keep":
                break
        self._plan_for(draft)

    def _apply(self, draft: Draft, entry: Entry) -> str:
        """One entry that is no command; what was done."""
        action = entry.config.action
        if action in ("hold", "return", "discard"):
            self._say(draft.part.path, _what(draft.part), draft.size, entry, action)
            raise Decided(Kind(action), one_line(entry.config.text) or f"by {entry.called} of conversions.toml")
        if action == "delete":
            draft.delete()
            return "left out"
        if action == "keep" or draft.composed is not None:
            return "kept"
        if entry.builtin is None:
            return "nothing: this is for the message as a whole"
        if action != "replace" and draft.large and not draft.part.container and self._is_large(draft):
            return "nothing: it is too large"
        if draft.data is None and draft.path and action != "replace":
            draft.data = b"".join(pieces(draft.path))
        try:
            done: str = entry.builtin.thd_convert(draft, entry.config)
        except ValueError as problem:
            return f"nothing: {problem}"
        if draft.data is not None:
            draft.path, draft.large = "", False
        return done or "nothing"

    def _is_large(self, draft: Draft) -> bool:
        return not draft.path or os.path.getsize(draft.path) > self._converter.part_octets

    def _plan_for(self, draft: Draft) -> None:
        """The last word on a part."""
        if not draft.touched:
            return
        made = draft.replacement()
        if made is not None and made.body is not None:
            held: list[bytes] = []
            source = iter(made.body())
            for chunk in source:
                held.append(chunk)
                self._held += len(chunk)
                if self._held > HELD:
                    path = self.scratch.thd_write("body", _chained(held, source))
                    made = Replacement(made.header, partial(pieces, path))
                    break
            else:
                made = Replacement(made.header, partial(list, held))
        draft.data = draft.composed = None
        self._plan[draft.part.ordinal] = made

    # --- commands --------------------------------------------------------------------------------------------

    async def _command_on_all(self, entry: Entry, in_thread: InThread, run: Run | None) -> bool:
        """Whether the message has changed."""
        size = self._content.size
        if run is None:
            self._say("", "message", size, entry, f"would run {entry.config.command[0]}")
            return False
        invocation = await in_thread(self._thd_ask, entry, _MESSAGE, None, None)
        ended = await run(invocation)
        text, found = await in_thread(self._thd_judged, entry, invocation, ended)
        if found in (Answer.NO_CHANGE, Answer.DELETE):
            self._say("", "message", size, entry, found.value)
            if found is Answer.DELETE:
                raise Decided(Kind.DISCARD, text)
            return False
        return bool(await in_thread(self._thd_new_message, entry, invocation))

    def _thd_judged(self, entry: Entry, invocation: Invocation, ended: Ended) -> tuple[str, Answer]:
        """What a command has decided; that it holds what an operator has released means that nothing changes."""
        try:
            return thd_judge(entry, invocation, ended)
        except Decided as decided:
            if self._mail.released and decided.kind is Kind.HOLD:
                return "", Answer.NO_CHANGE
            raise

    def _thd_ask(self, entry: Entry, part: Part, header: bytes | None, path: str | None) -> Invocation:
        top = self._header or self._content.header(self._converter.limits.header_octets)
        return thd_prepare(
            entry, self._mail, self._content, part, top if header is None else header, path, self.scratch, top
        )

    def _thd_new_message(self, entry: Entry, invocation: Invocation) -> bool:
        """Take what a command has made of the whole message, unless it is the same."""
        output = invocation.environment["OUTPUT_FILE"]
        if not thd_is_there(output) or thd_equal(output, thd_input(self._content, _MESSAGE, None)):
            self._say("", "message", self._content.size, entry, "no change")
            return False
        if not os.path.getsize(output):
            raise Decided(Kind.AGAIN, f"the command of {entry.called} left nothing of the message")
        self._content = thd_content(self._converter.root, with_crlf(pieces(output)))
        self._say("", "message", self._content.size, entry, "changed")
        return True

    async def _command_on_part(self, waiting: _Waiting, in_thread: InThread, run: Run | None) -> None:
        entry, draft = waiting.entries.pop(0), waiting.draft
        if run is None:
            self._say(draft.part.path, _what(draft.part), draft.size, entry, f"would run {entry.config.command[0]}")
        else:
            invocation = await in_thread(self._thd_ask, entry, draft.part, draft.header, draft.path)
            ended = await run(invocation)
            await in_thread(self._thd_take, entry, draft, invocation, ended)
        if draft.deleted or not entry.config.go_on:
            waiting.entries.clear()

    def _thd_take(self, entry: Entry, draft: Draft, invocation: Invocation, ended: Ended) -> None:
        """What a command has made of a part."""
        _, found = self._thd_judged(entry, invocation, ended)
        environment = invocation.environment
        did = found.value
        if found is Answer.DELETE:
            draft.delete()
        elif found is Answer.DONE:
            did = "no change"
            said = thd_options(invocation)
            output = environment["OUTPUT_FILE"]
            given = thd_input(self._content, draft.part, draft.path)
            media = media_of(said) or entry.config.out_type
            changed = thd_is_there(output) and (bool(media) or not thd_equal(output, given))
            header = thd_header(invocation, draft.header, self._converter.limits.header_octets)
            if header:
                draft.set_header(header)
                did = "header changed"
            if changed:
                if draft.part.container and not media:
                    raise Decided(Kind.AGAIN, f"{entry.called} gives no out_type for what was {draft.part.media}")
                draft.set_data(None, media, path=output)
                did = f"changed to {draft.part.media}" if media else "changed"
                name = entry.config.out_name
                disposition = said.get("OUTPUT_DISPOSITION", "").lower() or entry.config.out_disposition
                disposition = disposition if disposition in ("attachment", "inline") else ""
                if name or disposition:
                    draft.set_name(name, disposition)
        self._say(draft.part.path, _what(draft.part), draft.size, entry, did)


def _what(part: Part) -> str:
    return f"{part.media} {part.name}".strip()


def _chained(held: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    yield from held
    yield from rest
