"""
Runs what a document shows: blocks with commands behind C{$ }, and what they print.

The commands of a document run in one shell, one after the other, as a reader would type them; later documents go on in
the shell of the earlier ones. What is printed is compared loosely:

  - times, days, sizes, numbers, ports, passwords and the width of columns may differ;
  - a queue id of the document stands for the one that is found where it is first shown, in later commands, too;
  - a line C{...} stands for any lines; in a line, for any text;
  - the reader's own directory is /home/joe;
  - a backslash at the end goes on in the next line; so does a line behind C{> }, as the shell shows it.

A command that only asks is asked again until it says what is shown, for the daemon may not be so far yet. It must end
with status 0.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Iterator, Mapping

from attrs import define, field, frozen

ANSWER_S = 30.0
AGAIN_S = 15.0
_MARK = "\x01"
_FENCE = re.compile(r"(?ms)^```[a-z]*\n(.*?)^```$")
_ID = re.compile(r"(?<![0-9a-z])0[0-9a-z]{14}(?![0-9a-z])")
_ASKS = re.compile(
    r"^grep |^qmailpy (status|check|log|trace|test|events|\w+ (list|show)|"
    r"qm (sum|why|qshape|mess|hist|held|read|dir|counters))"
)
_LOOSE = (
    (re.compile(r"\bZ[A-Z]QUEUEID"), "QUEUEID"),  # the letter tells the attempts
    (re.compile(r"\b\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:?\d\d)?|\b\d{4}-\d\d-\d\d( [\d:.]+)?"), "TIME"),
    (re.compile(r"\b\d{1,2}-[A-Z][a-z]{2}-\d{4}( [\d:.]+)?"), "TIME"),
    (re.compile(r"\b\d\d:\d\d(:\d\d(\.\d+)?)?\b"), "TIME"),
    (re.compile(r"(?<=password) +[\w-]{16}(?= )"), " PASSWORD"),
    (re.compile(r"\b[0-9a-f]{2,8}\.\d+\.\d+\b"), "PROCESS"),
    (re.compile(r"\b[0-9a-f]{16,}\b|\b\d+\.\d+\.\d+\.[0-9a-z]+@"), "TOKEN"),
    (re.compile(r"\d+([.,]\d+)*"), "N"),
    (re.compile(r"-{3,}"), "---"),
)


@frozen(kw_only=True)
class Step:
    """A command and what it shall print."""

    where: str  # "docs/operations.md:17"
    command: str
    shown: tuple[str, ...]


def steps(path: str, text: str) -> Iterator[Step]:
    """The steps of a document."""
    for block in _FENCE.finditer(text):
        lines = block.group(1).splitlines()
        at = text.count("\n", 0, block.start(1)) + 1
        number = 0
        while number < len(lines):
            if not lines[number].startswith("$ "):
                number += 1
                continue
            begun, command = number, lines[number][2:]
            while command.endswith("\\"):
                number += 1
                command = command[:-1] + lines[number].lstrip()
            number += 1
            while number < len(lines) and (lines[number] == ">" or lines[number].startswith("> ")):
                command += f"\n{lines[number][2:]}"
                number += 1
            shown = []
            while number < len(lines) and not lines[number].startswith("$ "):
                shown.append(lines[number])
                number += 1
            yield Step(where=f"{path}:{at + begun}", command=command, shown=tuple(one for one in shown if one.strip()))


def loose(line: str) -> str:
    """A line without what may differ."""
    for pattern, name in _LOOSE:
        line = pattern.sub(name, line)
    return " ".join(line.split())


def matched(shown: tuple[str, ...], said: list[str], known: Mapping[str, str]) -> dict[str, str] | None:
    """
    Whether what was said is what is shown.

    @param known: queue ids: of the document, the real ones.
    @return: C{known} and what is known now; C{None}: it is something else.
    """
    if not shown:
        return dict(known) if not said else None
    if shown[0].strip() == "...":
        for skip in range(len(said) + 1):
            found = matched(shown[1:], said[skip:], known)
            if found is not None:
                return found
        return None
    if not said:
        return None
    ids = dict(known)
    theirs, ours = _ID.findall(shown[0]), _ID.findall(said[0])
    if len(theirs) > len(ours):
        return None
    for one, other in zip(theirs, ours, strict=False):
        if ids.setdefault(one, other) != other:
            return None
    parts = [re.escape(loose(part)) for part in _ID.sub("QUEUEID", shown[0]).split("...")]
    if not re.fullmatch(".*".join(parts), loose(_ID.sub("QUEUEID", said[0]))):
        return None
    return matched(shown[1:], said[1:], ids)


@define
class Reader:
    """A shell, and who types what the documents show."""

    directory: str
    environment: Mapping[str, str]
    ids: dict[str, str] = field(factory=dict)
    _shell: subprocess.Popen[bytes] | None = None

    def read(self, path: str, name: str) -> int:
        """
        Do what a document shows.

        @param name: of the document, for people.
        @return: how many commands that were.
        @raise AssertionError: something else is printed, or a command fails.
        """
        with open(path, encoding="utf-8") as source:
            found = list(steps(name, source.read()))
        for step in found:
            self._do(step)
        return len(found)

    def _do(self, step: Step) -> None:
        command = _ID.sub(lambda one: self.ids.get(one.group(), one.group()), step.command)
        deadline = time.monotonic() + AGAIN_S
        while True:
            status, said = self.type(command)
            said = said.replace(self.environment.get("HOME", "/home/joe"), "/home/joe")
            lines = [line for line in said.splitlines() if line.strip()]
            ids = matched(step.shown, lines, self.ids) if status == 0 else None
            if ids is not None:
                self.ids = ids
                return
            if not _ASKS.match(command) or time.monotonic() > deadline:
                shown = "\n".join(step.shown)
                raise AssertionError(f"{step.where}: $ {command}\nstatus {status}\n{said}\nshown is:\n{shown}")
            time.sleep(0.2)

    def type(self, command: str) -> tuple[int, str]:
        """
        Type a command.

        @return: exit status, output and errors.
        @raise AssertionError: it does not end.
        """
        if self._shell is None:
            self._shell = subprocess.Popen(
                ["/bin/bash", "--norc"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=dict(self.environment),
            )
        shell = self._shell
        assert shell.stdin is not None and shell.stdout is not None
        shell.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\001%d\\n' $?\n".encode())
        shell.stdin.flush()
        said, deadline = b"", time.monotonic() + ANSWER_S
        while not re.search(rb"\x01\d+\n\Z", said):
            if not select.select([shell.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{command}: not finished after {ANSWER_S:.0f} s\n{said.decode()}")
            more = os.read(shell.stdout.fileno(), 65536)
            if not more:
                raise AssertionError(f"{command}: the shell has ended\n{said.decode()}")
            said += more
        text, _, status = said.decode("utf-8", "replace").rpartition(_MARK)
        return int(status), text

    def close(self) -> None:
        """End the shell."""
        if self._shell is not None:
            self._shell.kill()
            self._shell.wait()
            for pipe in (self._shell.stdin, self._shell.stdout):
                if pipe is not None:
                    pipe.close()
            self._shell = None
