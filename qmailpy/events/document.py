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
time given below; the next line then has `times`, how often it was. Of one kind no more than 50 are told in 5 minutes,
whatever their fields (`events.many`). All this for each process by itself. A file of 4 MiB is renamed to
`events.log.1`; four old ones are kept.

What lasts is told when it begins, again after the time given while it goes on, and when it has ended. When it comes
back within 5 minutes and goes again, that is not told. After a restart who looks then goes on with it, and may tell
its beginning once more. Lines there was no room for are written once there is.

The first worker looks for most of it every `[monitor] interval_s` seconds. The supervisor looks after the processes: it
asks each every 5 s. `worker.down` is told of one that was ready and has left three questions unanswered, so after
15 to 20 s, and is over when it answers, or its successor is ready; it is killed after `[server] frozen_s`. A start, a
machine that slept or was paused, and a clock that was set are no silence.

    qmailpy events [-f] [--since 2h] [--severity warning] [--json]

shows them.
"""


def markdown() -> str:
    """The whole page, with the line end of its last line."""
    parts = [_HEAD]
    for name in sorted(CATALOGUE):
        kind = CATALOGUE[name]
        often = f"told at most every {kind.interval_s:g} s" if kind.interval_s else "told each time"
        often = f"lasts (until `{kind.over}`), {often}" if kind.lasts else often
        fields = ", ".join(f"`{field}`" for field in kind.fields)
        parts.append(
            f"\n## {name}\n\n{kind.severity.value}, {often}. Fields: {fields}.\n\n> {_text(kind.text)}\n\n"
            f"{_text(kind.remedy)}.\n"
        )
    return "".join(parts)


def _text(text: str) -> str:
    return text.replace("{", "*").replace("}", "*")
