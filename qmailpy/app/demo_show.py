"""
What the demonstration prints: headings and marks in colour on a terminal, plain text elsewhere, lines never folded.
"""

from __future__ import annotations

import shlex

from rich.console import Console
from rich.markup import escape

from qmailpy.app.demo_home import REMOTE, Stage
from qmailpy.app.demo_programs import Outcome
from qmailpy.app.demo_sink import UNKNOWN
from qmailpy.cli.output import printable


class Show:
    """The stage's front."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def _print(self, markup: str = "") -> None:
        self._console.print(markup, highlight=False, soft_wrap=True, emoji=False)

    def heading(self, text: str) -> None:
        """A part begins."""
        self._print()
        self._print(f"[bold cyan]== {escape(text)}[/]")

    def done(self, text: str) -> None:
        """A step went well."""
        self._print(f"[green]ok[/]  {escape(printable(text))}")

    def text(self, text: str) -> None:
        """Lines as they are, but for what a terminal might act upon."""
        for line in text.splitlines():
            self._print(escape("".join(c if c == "\t" else printable(c) for c in line)))

    def outcome(self, stage: Stage, outcome: Outcome) -> None:
        """A command and what it said."""
        words = shlex.join(["qmailpy", "--home", stage.home, *outcome.words])
        self._print(f"[bold]$ {escape(words)}[/]")
        self.text(outcome.output)

    def by_hand(self, stage: Stage, commands: str, title: str) -> None:
        """
        What the person can try now.

        @param commands: directory of the programs, as it may be typed.
        """
        self.heading(title)
        self._print(f"SMTP on 127.0.0.1:{stage.port}; our domain is {stage.domain}; {REMOTE} is the sink's:")
        self._print(f"it takes mail for anybody there but {UNKNOWN}@{REMOTE}.")
        self._print()
        for address in sorted({stage.address("alice"), stage.address("bob"), *stage.passwords}):
            password = stage.passwords.get(address, "(set one with: qmailpy user passwd)")
            self._print(f"  [bold]{escape(address):<28}[/] password {escape(password)}")
        self._print()
        alice, bob = stage.address("alice"), stage.address("bob")
        home = shlex.quote(stage.home)
        for line in (
            f"export QMAILPY_HOME={home} PATH={shlex.quote(commands)}:$PATH",
            f"swaks --server 127.0.0.1:{stage.port} --from {alice} --to {bob},anybody@{REMOTE}",
            f"printf 'Subject: hello\\n\\nhello\\n' | qmailpy inject -f {alice} {bob}",
            "qmailpy log tail -f",
            "qmailpy qm",
            f"qmailpy user add carol@{stage.domain}",
            f"ls {home}/mail/{stage.domain}/bob/Maildir/new",
        ):
            self._print(f"  {escape(line)}")
