"""docs/events.md, made from the catalogue: C{qmailpy events --catalogue} prints it."""

from __future__ import annotations

from qmailpy.events.catalogue import CATALOGUE

_HEAD = """# Events

What an operator may want to be told of is written to `HOME/log/events.log`: an event a line, in JSON, by every process
of the home. This page is made from the catalogue (`qmailpy events --catalogue`).

    {"time": 1764000000.123, "id": "mta-0-6923c1a0-7", "event": "queue.age", "severity": "warning", "process": "mta-0",
     "fields": {"channel": "tcp_local", "age": "5 h", "limit": "4 h"}, "text": "...", "remedy": "..."}

`time` is seconds since the epoch, `id` unique, `text` a sentence with the fields in it, `remedy` what to do about it.
Names, fields and severities stay; new fields may come. The same event with the same first field is told once in the
time given below; the next line then has `times`, how often it was. A file of 4 MiB is renamed to `events.log.1`; four
old ones are kept.

Conditions that last (`queue.*`, `channel.*`, `worker.down`, `disk.*`, `log.behind`, `counters.mismatch`) are looked for
every `[monitor] interval_s` seconds and told when they begin; `trouble.over` tells when they have ended. The first
worker looks: that it stands still itself (not that it has died) is told by `qmailpy status`, asked from outside, alone.

    qmailpy events [-f] [--since 2h] [--severity warning] [--json]

shows them.
"""


def markdown() -> str:
    """The whole page, with the line end of its last line."""
    parts = [_HEAD]
    for name in sorted(CATALOGUE):
        kind = CATALOGUE[name]
        often = f"told at most every {kind.interval_s:g} s" if kind.interval_s else "told each time"
        fields = ", ".join(f"`{field}`" for field in kind.fields)
        parts.append(
            f"\n## {name}\n\n{kind.severity.value}, {often}. Fields: {fields}.\n\n> {_text(kind.text)}\n\n"
            f"{_text(kind.remedy)}.\n"
        )
    return "".join(parts)


def _text(text: str) -> str:
    return text.replace("{", "*").replace("}", "*")
