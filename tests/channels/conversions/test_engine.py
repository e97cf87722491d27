"""Entries on parts and messages: what fits, what is done, and that everything else stays octet for octet."""

from __future__ import annotations

import os
from typing import Any

from attrs import evolve
from hypothesis import given, settings

from qmailpy.channels.conversions.command import Answer, Invocation
from qmailpy.channels.conversions.entry import Kind
from qmailpy.config.conversion_schema import EntryConfig
from tests.channels.conversions.common import EXE, MULTI, TEXT, ConverterCase, Program, entry
from tests.wire.test_mime import HEAD, MESSAGES, parts

NOTHING: tuple[EntryConfig, ...] = (entry("delete", type=("video/*",)),)


def leaving(status: int = 0, **files: bytes) -> Program:
    """A command that writes those files, by the names of their variables."""

    def program(invocation: Invocation) -> int:
        for name, octets in files.items():
            with open(invocation.environment[name], "wb") as target:
                target.write(octets)
        return status

    return program


class FittingTests(ConverterCase):
    def test_without_a_fitting_entry_the_message_is_the_same(self) -> None:
        found = self.outcome(*NOTHING)
        self.assertIs(found.kind, Kind.SAME)
        self.assertIsNone(found.content)

    def test_entries_look_at_type_name_and_place(self) -> None:
        for keys, fits in (
            ({"type": ("application/*",)}, ["2"]),
            ({"type": ("APPLICATION/x-MSdownload",)}, ["2"]),
            ({"type": ("multipart/*",)}, [""]),
            ({"file": ("*.exe", "*.com")}, ["2"]),
            ({"disposition": "attachment"}, ["2"]),
            ({"disposition": "inline"}, ["1"]),
            ({"body": True}, ["1"]),
            ({"min_octets": 9}, ["2"]),
            ({"max_octets": 8}, ["1"]),
            ({"in_channel": "tcp_*", "out_channel": "local", "sender": ("*@x.example",)}, ["1", "2"]),
            ({"recipient": ("r@*",)}, ["1", "2"]),
            ({"in_channel": "tcp_intranet"}, []),
            ({"out_channel": "tcp_*"}, []),
            ({"sender": ("<>",)}, []),
            ({"recipient": ("*@z.example",)}, []),
        ):
            self.outcome(entry("keep", **keys))
            self.assertEqual([path for path, _ in self.did()], fits, keys)

    def test_any_name_that_a_reader_may_take_is_a_name(self) -> None:
        """Two fields, a parameter given twice or in two ways, and what systems cut off; to be kept all must fit."""
        for fields in (
            b'Content-Type: text/plain; name=a.txt\r\nContent-Disposition: attachment; filename="b.exe"',
            b'Content-Type: text/plain; name=b.exe\r\nContent-Disposition: attachment; filename="a.txt"',
            b"Content-Type: text/plain; name=a.txt; name=b.exe",
            b"Content-Type: text/plain; name=b.exe; name*0=a.txt",
            b'Content-Type: text/plain; name="b.exe. "',
            b'Content-Type: text/plain; name="b.exe\x00.txt"',
            b"Content-Type: text/plain; name*=utf-8''b.exe%00.txt",
        ):
            message = b"MIME-Version: 1.0\r\n" + fields + b"\r\n\r\nMZ\r\n"
            text = entry("replace", file=("*.exe",), text="gone\n")
            self.assertIn(b"gone", self.made(text, message=message), fields)
            self.assertIn(b"gone", self.made(entry("keep", file=("*.txt",)), text, message=message), fields)
            self.assertNotIn(b"gone", self.made(entry("keep", file=("*",)), text, message=message), fields)
        plain = b"MIME-Version: 1.0\r\nContent-Type: text/plain; name=a.txt\r\n\r\nMZ\r\n"
        self.assertEqual(self.made(entry("delete", file=("*.exe",)), message=plain), plain)

    def test_the_first_entry_that_fits_is_the_one(self) -> None:
        self.outcome(entry("keep", file=("*.exe",)), entry("delete", disposition="attachment"))
        self.assertEqual(self.did(), [("2", "kept")])
        octets = self.made(entry("utf8", go_on=True), entry("disclaimer", text="bye"))
        self.assertEqual(self.did(), [("1", "from iso8859-1 to utf-8"), ("1", "disclaimer added")])
        self.assertIn(b"caf=C3=A9\r\n\r\nbye", octets)

    def test_the_first_entry_for_the_whole_is_the_one(self) -> None:
        copy = entry("journal", whole=True, address="j@z.example")
        self.assertIs(self.outcome(copy, entry("hold", whole=True)).kind, Kind.SAME)
        self.assertIs(self.outcome(evolve(copy, go_on=True), entry("hold", whole=True)).kind, Kind.HOLD)

    def test_the_null_sender_is_spoken_of(self) -> None:
        self.outcome(entry("keep", sender=("<>",)), sender="")
        self.assertEqual(len(self.did()), 2)

    def test_what_is_signed_is_left_alone_unless_it_is_asked_for(self) -> None:
        message = MULTI.replace(b"multipart/mixed", b"multipart/signed")
        self.assertEqual(self.made(entry("delete", file=("*.exe",)), message=message), message)
        self.assertNotIn(EXE, self.made(entry("delete", file=("*.exe",), signed=True), message=message))

    def test_recipients_for_whom_other_entries_are_are_apart(self) -> None:
        converter = self.converter(entry("keep", recipient=("a@*",)), entry("keep"))
        self.assertEqual(converter.alike(["a@x", "b@x", "A@y", "c@x"]), [(0, 2), (1, 3)])
        self.assertEqual(self.converter(entry("keep")).alike(["a@x", "b@x"]), [(0, 1)])


class ActionTests(ConverterCase):
    def test_a_part_is_left_out(self) -> None:
        self.assertEqual(self.made(entry("delete", file=("*.exe",))), MULTI.replace(b"\r\n--b\r\n" + EXE, b""))

    def test_the_message_itself_is_emptied(self) -> None:
        octets = self.made(entry("delete"), message=b"Subject: x\r\n\r\nbody\r\n")
        self.assertTrue(octets.startswith(b"MIME-Version: 1.0\r\nSubject: x\r\n"))
        self.assertEqual(parts(octets), [("", "text/plain", b"")])

    def test_an_enclosed_message_is_taken_as_a_whole(self) -> None:
        message = HEAD + b"--b\r\nContent-Type: message/rfc822\r\n\r\n" + MULTI + b"\r\n--b\r\n\r\nx\r\n--b--"
        message = message.replace(b"boundary=b\r\n", b"boundary=c\r\n", 1).replace(
            b"--b\r\nContent-Type: message", b"--c\r\nContent-Type: message"
        )
        message = message.removesuffix(b"\r\n--b\r\n\r\nx\r\n--b--") + b"\r\n--c\r\n\r\nx\r\n--c--"
        octets = self.made(entry("delete", type=("message/rfc822",)), message=message)
        self.assertEqual(octets, HEAD.replace(b"=b", b"=c") + b"\r\n--c\r\n\r\nx\r\n--c--")

    def test_messages_are_held_returned_and_discarded(self) -> None:
        for action, kind in (("hold", Kind.HOLD), ("return", Kind.RETURN), ("discard", Kind.DISCARD)):
            for whole in (True, False):
                keys: dict[str, Any] = {"whole": True} if whole else {"file": ("*.exe",)}
                found = self.outcome(entry(action, text="no\nprograms", **keys))
                self.assertEqual((found.kind, found.text), (kind, "no programs"))
        self.assertIn("entry 1 (exe)", self.outcome(entry("hold", name="exe", whole=True)).text)

    def test_journals_are_told_and_the_rest_goes_on(self) -> None:
        journal = entry("journal", whole=True, address="j@z.example", go_on=True)
        found = self.outcome(journal, entry("hold", whole=True, min_octets=10_000), entry("delete", file=("*.exe",)))
        self.assertEqual((found.kind, [one.config for one in found.journals]), (Kind.CHANGED, [journal]))
        self.assertEqual(self.outcome(journal, *NOTHING).kind, Kind.SAME)

    def test_broken_structure_passes_or_is_held(self) -> None:
        message = MULTI.replace(b"--b--", b"")
        self.assertEqual(self.made(*NOTHING, message=message), message)
        found = self.outcome(message=message, limits={"broken": "hold"})
        self.assertEqual((found.kind, found.text), (Kind.HOLD, "the structure of the message is malformed"))
        self.assertIs(self.outcome(limits={"broken": "hold"}).kind, Kind.SAME)

    def test_what_hides_behind_a_limit_does_not_pass_an_entry_that_looks_for_it(self) -> None:
        """A program behind the last part that is looked at, too deep, or behind a header without end."""
        empty = b"--b\r\n\r\n\r\n"
        many = MULTI.replace(b"--b\r\n", empty * 10 + b"--b\r\n", 1)
        deep = MULTI
        for number in range(6):
            inner = b"c%d" % number
            deep = b"Content-Type: multipart/mixed; boundary=%b\r\n\r\n--%b\r\n%b\r\n--%b--\r\n" % (
                (inner,) * 2 + (deep, inner)
            )
        large = MULTI.replace(b"--b\r\n", b"--b\r\nX: " + b"x " * 5000 + b"\r\n\r\n\r\n--b\r\n", 1)
        cases: tuple[tuple[bytes, str, dict[str, Any]], ...] = (
            (many, "too many parts", {"parts": 5}),
            (deep, "too deep", {"depth": 5}),
            (large, "too large", {"header_octets": 4096}),
        )
        for message, why, limits in cases:
            for action in ("delete", "replace", "hold", "return", "discard", "command"):
                guard = entry(action, file=("*.exe",))
                found = self.outcome(guard, message=message, limits=limits)
                self.assertEqual((found.kind, why in found.text), (Kind.HOLD, True), (why, action))
                found = self.outcome(guard, message=message, limits={**limits, "beyond": "return"})
                self.assertEqual((found.kind, why in found.text), (Kind.RETURN, True), (why, action))
                self.assertEqual(self.made(guard, message=message, limits={**limits, "beyond": "pass"}), message)
                self.assertEqual(self.made(guard, message=message, limits=limits, released=True), message)
            for harmless in (entry("keep"), entry("strip"), entry("hold", whole=True, min_octets=10**6)):
                self.made(harmless, message=message, limits=limits)
            self.assertIs(self.outcome(message=message, limits=limits).kind, Kind.SAME)
            self.assertIs(self.outcome(message=message, limits={**limits, "broken": "hold"}).kind, Kind.HOLD)
            self.assertIs(self.outcome(entry("delete", sender=("<>",)), message=message, limits=limits).kind, Kind.SAME)

    def test_an_entry_that_sees_enough_decides_before_the_limit(self) -> None:
        message = MULTI.replace(b"--b--", b"--b\r\n\r\n\r\n" * 10 + b"--b--")
        found = self.outcome(entry("return", file=("*.exe",), text="no"), message=message, limits={"parts": 5})
        self.assertEqual((found.kind, found.text), (Kind.RETURN, "no"))

    def test_parts_that_are_too_large_are_not_changed_by_what_is_built_in(self) -> None:
        message = MULTI.replace(b"caf=E9\r\n", b"caf=E9\r\n" * 500)
        limits = {"part_octets": 1024}
        self.assertEqual(self.made(entry("utf8"), message=message, limits=limits), message)
        self.assertEqual(self.did(), [("1", "nothing: it is too large")])
        self.assertIn(b"taken out", self.made(entry("replace", body=True), message=message, limits=limits))

    def test_large_messages_come_from_and_go_to_files(self) -> None:
        body = b"x" * 70 + b"\r\n"
        message = MULTI.replace(b"caf=E9\r\n", body * 10_000)
        octets = self.made(entry("disclaimer", text="bye"), entry("replace", file=("*.exe",)), message=message)
        self.assertIn(body * 10_000 + b"\r\nbye\r\n", octets)
        self.assertEqual(os.listdir(self.root), [])

    @given(MESSAGES)
    @settings(max_examples=100, deadline=None)
    def test_anything_comes_out(self, message: bytes) -> None:
        """Whatever comes in: no exception, and what is not touched is there."""
        self.root = "/nowhere"  # nothing so small needs a file
        for action in ("utf8", "strip", "alternative", "replace", "delete", "disclaimer"):
            self.made(entry(action, text="bye"), message=message)


class CommandTests(ConverterCase):
    """Programs are functions here; tests.integration.test_conversion has real ones."""

    def test_a_command_gets_data_names_and_facts(self) -> None:
        seen: dict[str, Any] = {}

        def program(invocation: Invocation) -> int:
            environment = invocation.environment
            for name in ("INPUT_FILE", "INPUT_HEADERS", "MESSAGE_HEADERS"):
                with open(environment[name], "rb") as source:
                    seen[name] = source.read()
            seen["argv"] = invocation.argv == ("/bin/prog", environment["INPUT_FILE"], environment["OUTPUT_FILE"])
            seen["place"] = os.listdir(invocation.directory) and os.getcwd() != invocation.directory
            return 0

        self.assertEqual(self.made(entry("command", file=("*.exe",), tag="T"), program=program), MULTI)
        self.assertEqual(seen["INPUT_FILE"], b"MZ\x90\x00\x03")
        self.assertEqual(seen["INPUT_HEADERS"], EXE[: EXE.index(b"TVq")].replace(b"\r\n", b"\n"))
        self.assertEqual(seen["MESSAGE_HEADERS"], MULTI[: MULTI.index(b"preamble")].replace(b"\r\n", b"\n"))
        self.assertTrue(seen["argv"])
        environment = self.asked[0].environment
        for name, value in (
            ("INPUT_TYPE", "APPLICATION"),
            ("INPUT_SUBTYPE", "X-MSDOWNLOAD"),
            ("INPUT_ENCODING", "BASE64"),
            ("INPUT_DISPOSITION", "ATTACHMENT"),
            ("INPUT_NAME", "run me.EXE"),
            ("INPUT_CHANNEL", "tcp_local"),
            ("OUTPUT_CHANNEL", "local"),
            ("CONVERSION_TAG", "T"),
            ("ATTACHMENT_NUMBER", "1"),
            ("PART_NUMBER", "2"),
            ("PART_SIZE", "5"),
            ("SENDER", "s@x.example"),
            ("RECIPIENTS", "r@y.example"),
            ("SUBJECT", "hé"),
        ):
            self.assertEqual(environment[name], value, name)
        self.assertLessEqual({"PATH", "HOME", "LANG"}, set(environment))
        self.assertNotIn("QMAILPY_HOME", environment)
        self.assertEqual(os.listdir(self.root), [], "everything is removed")

    def test_what_it_writes_takes_the_parts_place(self) -> None:
        octets = self.made(entry("command", file=("*.exe",)), program=leaving(OUTPUT_FILE=b"safe"))
        self.assertEqual(octets, MULTI.replace(b"TVqQAAM=\r\n", b"c2FmZQ=="))

    def test_what_may_be_cut_off_is_not_taken(self) -> None:
        """A program may not have minded that it could not write more."""
        for keys in ({"file": ("*.exe",)}, {"whole": True}):
            one = entry("command", output_octets=2000, **keys)
            self.assertIs(self.outcome(one, program=leaving(OUTPUT_FILE=b"x" * 1999)).kind, Kind.CHANGED)
            found = self.outcome(one, program=leaving(OUTPUT_FILE=b"x" * 2000))
            self.assertIs(found.kind, Kind.AGAIN)
            self.assertIn("has reached the 2000 octets", found.text)

    def test_text_is_given_and_taken_with_lf(self) -> None:
        def program(invocation: Invocation) -> int:
            with open(invocation.environment["INPUT_FILE"], "rb") as source:
                self.assertEqual(source.read(), b"caf\xe9\n")
            return leaving(OUTPUT_FILE=b"tea\nfor two\n")(invocation)

        octets = self.made(entry("command", body=True), program=program)
        self.assertEqual(octets, MULTI.replace(b"caf=E9", b"tea\r\nfor two").replace(b"quoted-printable", b"7bit"))

    def test_the_same_again_is_no_change(self) -> None:
        """A command that copies does no harm to signatures."""

        def program(invocation: Invocation) -> int:
            with open(invocation.environment["INPUT_FILE"], "rb") as source:
                return leaving(OUTPUT_FILE=source.read())(invocation)

        for keys in ({"file": ("*.exe",)}, {"body": True}, {"whole": True}):
            self.assertIs(self.outcome(entry("command", **keys), program=program).kind, Kind.SAME)

    def test_what_it_says_of_its_output_is_heard(self) -> None:
        said = b'OUTPUT_TYPE=TEXT\nOUTPUT_SUBTYPE="plain"\nOUTPUT_DISPOSITION=INLINE\n'
        program = leaving(OUTPUT_FILE=b"safe\n", OUTPUT_OPTIONS=said)
        octets = self.made(entry("command", file=("*.exe",), out_name="safe.txt"), program=program)
        part = (
            b'Content-Type: text/plain; charset=utf-8; name="safe.txt"\r\n'
            b'Content-Disposition: inline; filename="safe.txt"\r\nContent-Transfer-Encoding: 7bit\r\n\r\nsafe\r\n'
        )
        self.assertEqual(octets, MULTI.replace(EXE, part))
        octets = self.made(entry("command", file=("*.exe",), out_type="image/png"), program=leaving(OUTPUT_FILE=b"p"))
        self.assertIn(b'Content-Type: image/png; name="run me.EXE"\r\n', octets)
        header = b"X-Scanned: yes\nContent-Type: text/html; charset=us-ascii\nContent-Transfer-Encoding: x\n"
        octets = self.made(
            entry("command", file=("*.exe",)), program=leaving(OUTPUT_FILE=b"<p>", OUTPUT_HEADERS=header)
        )
        part = (
            b"X-Scanned: yes\r\nContent-Type: text/html; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n\r\n<p>"
        )
        self.assertEqual(octets, MULTI.replace(EXE, part))

    def test_a_command_may_change_or_remove_what_it_was_given(self) -> None:
        """As gzip and mv do; what it was given is not what its output is compared with, and not what goes on."""

        def moved(invocation: Invocation) -> int:
            given, output = invocation.environment["INPUT_FILE"], invocation.environment["OUTPUT_FILE"]
            with open(given, "ab") as target:
                target.write(b"more\n")
            os.rename(given, output)
            return 0

        def changed(invocation: Invocation) -> int:
            moved(invocation)
            return leaving(INPUT_FILE=b"", OUTPUT_FILE=b"all\n")(invocation)

        def spoilt(invocation: Invocation) -> int:
            return leaving(INPUT_FILE=b"spoilt")(invocation)

        def copied(invocation: Invocation) -> int:
            spoilt(invocation)
            return leaving(OUTPUT_FILE=b"spoilt")(invocation)

        def same(invocation: Invocation) -> int:
            with open(invocation.environment["INPUT_FILE"], "rb") as source:
                self.seen.append(source.read())
            return spoilt(invocation)

        self.seen: list[bytes] = []
        for keys in ({"file": ("*.exe",)}, {"body": True}, {"whole": True}):
            for program in (moved, changed, copied):
                made = self.outcome(entry("command", **keys), program=program)
                self.assertIs(made.kind, Kind.CHANGED, (keys, program))
            twice = (entry("command", go_on=True, **keys), entry("command", **keys))
            self.assertIs(self.outcome(*twice, program=same).kind, Kind.SAME, keys)
            self.assertEqual(self.seen[0], self.seen[1], keys)
            self.seen = []
        header = b"X-Scanned: yes\nContent-Type: application/x-msdownload\n"

        def spoiling(invocation: Invocation) -> int:
            spoilt(invocation)
            return leaving(OUTPUT_HEADERS=header)(invocation)

        octets = self.made(entry("command", file=("*.exe",)), program=spoiling)
        self.assertIn(b"X-Scanned: yes", octets)
        self.assertIn(b"\r\nTVqQAAM=\r\n", octets)

    def test_a_header_it_leaves_is_one_or_mail_waits(self) -> None:
        for header, why in (
            (b"Content-Type: text/plain\n\nand a body\nX: y\n", "line 2 "),
            (b"Content-Type: text/plain\nno field\n", "line 2 "),
            (b" folded\nX: y\n", "line 1 "),
            (b"X: y\rBcc: z\n", "line 1 "),
            (b"X: y\0\n", "line 1 "),
            (b"X: y\n" + b"Z: z\n" * 60, "more than 300 octets"),
        ):
            for keys in ({"file": ("*.exe",)}, {"body": True}):
                program = leaving(OUTPUT_HEADERS=header)
                found = self.outcome(entry("command", **keys), program=program, limits={"header_octets": 300})
                self.assertIs(found.kind, Kind.AGAIN, header[:80])
                self.assertIn(why, found.text)
        program = leaving(OUTPUT_HEADERS=b"X: \xe9\n y\r\n\tz\n\n\n")
        self.assertIn(b"\r\nX: \xe9\r\n y\r\n\tz\r\nCont", self.made(entry("command", body=True), program=program))

    def test_what_a_sender_wrote_into_a_header_may_stay_and_all_of_it(self) -> None:
        """A command that adds a field to a header of any size, with lines that are none."""
        long = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 70) for number in range(2000))
        message = b"From: a@b.example\r\nthis is no field\r\n" + long + b"Subject: last\r\n\r\nbody\r\n"

        def program(invocation: Invocation) -> int:
            with open(invocation.environment["INPUT_HEADERS"], "rb") as source:
                return leaving(OUTPUT_HEADERS=b"X-Scanned: yes\n" + source.read())(invocation)

        octets = self.made(entry("command"), message=message, program=program)
        self.assertIn(b"X-Scanned: yes\r\n" + message.partition(b"\r\n\r\n")[0], octets)

        def whole(invocation: Invocation) -> int:
            with open(invocation.environment["MESSAGE_HEADERS"], "rb") as source:
                self.assertIn(b"Subject: last\n", source.read())
            return 0

        self.outcome(entry("command", whole=True), message=message, program=whole)

    def test_content_fields_alone_leave_the_others_of_a_message_as_they_are(self) -> None:
        """A message of one part has one header: who writes that of the part does not mean From and Received."""
        message = (
            b"Received: x\r\nFrom: a@b.example\r\nMIME-Version: 1.0\r\nContent-Type: text/html\r\n"
            b"Content-Language: de\r\nSubject: s\r\n\r\n<p>\r\n"
        )
        program = leaving(OUTPUT_FILE=b"p\n", OUTPUT_HEADERS=b"Content-Type: text/plain\n")
        self.assertEqual(
            self.made(entry("command"), message=message, program=program),
            b"Received: x\r\nFrom: a@b.example\r\nMIME-Version: 1.0\r\nSubject: s\r\n"
            b"Content-Type: text/plain\r\nContent-Transfer-Encoding: 7bit\r\n\r\np\r\n",
        )

    def test_exit_statuses_decide(self) -> None:
        for status, kind in ((82, Kind.HOLD), (83, Kind.RETURN), (84, Kind.DISCARD), (75, Kind.AGAIN)):
            for keys in ({"file": ("*.exe",)}, {"whole": True}):
                program = leaving(status, OUTPUT_FILE=b"x", OUTPUT_OPTIONS=b"OUTPUT_DIAGNOSTIC=because\n")
                found = self.outcome(entry("command", **keys), program=program)
                self.assertIs(found.kind, kind)
                self.assertIn("because", found.text)
        self.assertEqual(self.made(entry("command", file=("*.exe",)), program=leaving(80, OUTPUT_FILE=b"x")), MULTI)
        gone = self.made(entry("command", file=("*.exe",)), program=leaving(81))
        self.assertEqual(gone, MULTI.replace(b"\r\n--b\r\n" + EXE, b""))

    def test_failures_that_are_not_known_mean_try_again(self) -> None:
        for status in (1, 2, 126, 127, 255, -1):
            found = self.outcome(entry("command", file=("*.exe",)), program=leaving(status, OUTPUT_FILE=b"x"))
            self.assertIs(found.kind, Kind.AGAIN, status)

    def test_statuses_of_imta_are_understood(self) -> None:
        for status, kind in (
            (b"PMDF__FORCEHOLD", Kind.HOLD),
            (b"178030250", Kind.HOLD),
            (b"0x0A9C86AA", Kind.HOLD),
            (b"178029946", Kind.RETURN),
            (b"178030259", Kind.DISCARD),
            (b"PMDF__AGN", Kind.AGAIN),
            (b"4711", Kind.AGAIN),
            (b"0xnope", Kind.AGAIN),
            (b"PMDF__NOCHANGE", Kind.SAME),
            (b"178030178", Kind.CHANGED),
        ):
            program = leaving(0, OUTPUT_FILE=b"x", OUTPUT_OPTIONS=b"STATUS=" + status)
            self.assertIs(self.outcome(entry("command", file=("*.exe",)), program=program).kind, kind, status)

    def test_a_command_on_the_whole_message(self) -> None:
        def program(invocation: Invocation) -> int:
            with open(invocation.environment["INPUT_FILE"], "rb") as source:
                octets = source.read()
            self.assertEqual(octets, MULTI.replace(b"\r\n", b"\n"))
            return leaving(OUTPUT_FILE=b"X-Scanned: yes\n" + octets)(invocation)

        scan = entry("command", whole=True)
        self.assertEqual(self.made(scan, program=program), b"X-Scanned: yes\r\n" + MULTI)
        octets = self.made(scan, entry("delete", file=("*.exe",)), program=program)
        self.assertEqual(octets, b"X-Scanned: yes\r\n" + MULTI.replace(b"\r\n--b\r\n" + EXE, b""))
        self.assertIs(self.outcome(scan, program=leaving(OUTPUT_FILE=b"")).kind, Kind.AGAIN)

    def test_commands_and_what_is_built_in_follow_each_other(self) -> None:
        octets = self.made(
            entry("utf8", go_on=True),
            entry("command", body=True, go_on=True),
            entry("disclaimer", text="bye"),
            program=leaving(OUTPUT_FILE=b"tea\n"),
        )
        self.assertEqual([did for _, did in self.did()], ["from iso8859-1 to utf-8", "changed", "disclaimer added"])
        self.assertIn(b"\r\n\r\ntea\r\n\r\nbye\r\n", octets)
        self.assertNotIn(TEXT, octets)

    def test_large_parts_are_for_commands_in_files(self) -> None:
        message = MULTI.replace(b"TVqQAAM=", b"QUJD" * 2000)
        size = []

        def program(invocation: Invocation) -> int:
            size.append(os.path.getsize(invocation.environment["INPUT_FILE"]))
            return leaving(OUTPUT_FILE=b"x" * 7000)(invocation)

        self.made(entry("command", file=("*.exe",)), message=message, program=program, limits={"part_octets": 1024})
        self.assertEqual(size, [6000])

    def test_what_an_operator_has_released_is_held_by_nothing(self) -> None:
        """Neither an entry, nor a command for a part or the whole, nor the structure; the rest is done."""
        hold = entry("hold", file=("*.exe",))
        commands = (entry("command", whole=True, go_on=True), entry("command", type=("text/*",)))
        rest = (entry("delete", file=("*.exe",)),)
        for holding in ((hold,), commands):
            self.assertIs(self.outcome(*holding, *rest, program=lambda _: 82).kind, Kind.HOLD)
            octets = self.made(*holding, *rest, program=lambda _: 82, released=True)
            self.assertNotIn(b"TVq", octets)
            self.assertIn(TEXT, octets)
        self.assertIs(self.outcome(commands[0], program=lambda _: 83, released=True).kind, Kind.RETURN)
        broken = MULTI.replace(b"--b--", b"")
        self.assertIs(self.outcome(message=broken, limits={"broken": "hold"}).kind, Kind.HOLD)
        self.assertIs(self.outcome(message=broken, limits={"broken": "hold"}, released=True).kind, Kind.SAME)

    def test_without_a_runner_nothing_is_run(self) -> None:
        self.assertEqual(self.made(entry("command", whole=True), entry("command", body=True)), MULTI)
        self.assertEqual(self.did(), [("", "would run /bin/prog"), ("1", "would run /bin/prog")])

    def test_what_a_container_becomes_needs_a_type(self) -> None:
        program = leaving(OUTPUT_FILE=b"flat")
        found = self.outcome(entry("command", type=("multipart/*",)), program=program)
        self.assertIs(found.kind, Kind.AGAIN)
        octets = self.made(entry("command", type=("multipart/*",), out_type="text/plain"), program=program)
        self.assertTrue(octets.endswith(b"\r\n\r\nflat"))
        self.assertNotIn(b"multipart", octets)

    def test_every_answer_has_a_meaning(self) -> None:
        self.assertEqual(len(Answer), 7)
