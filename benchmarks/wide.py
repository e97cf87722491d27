"""
Channels of every kind for torture, beside local and relay: what must be in the home, and what is looked at afterwards.

Where mail goes is told by its domain (L{benchmarks.mailing}): LMTP, a conversion, a second routing, what was held (by a
channel or a conversion) and what came in pieces end at the sink; what a conversion returns ends at its sender; a
program writes files; a group has members here and at the sink; a user is away and answers.
"""

from __future__ import annotations

import json
import os
import time

from benchmarks.mailing import (
    AGAIN,
    AWAY,
    AWAY_TEXT,
    CONVERTED,
    HELD,
    KEPT,
    MEMBERS,
    PIECES,
    PIPED,
    REFUSED,
    STORED,
    TEAM,
    Ledger,
    digest_after_mark,
)
from benchmarks.node import REMOTE, START_S, Node

USERS = (AWAY.partition("@")[0],)
"""Further users."""

CHANNELS = (
    "tcp_local", "local", "process", "bitbucket", "hold", "tcp_lmtp", "conversion", "reprocess", "piped", "autoreply",
    "defragment",
)  # fmt: skip
"""Those that must have had mail."""

GATHER_S = 15.0
"""Pieces whose others were never accepted go on alone after so long."""

_TRIED_SOON = "backoff = [1.0]\njitter = 0.0\n"
_TABLES = """
[channel.hold]
kind = "hold"

[channel.tcp_lmtp]
kind = "lmtp"
relay = "127.0.0.1:{relay}"
connections_idle_s = 1.0
{soon}
[channel.conversion]
kind = "conversion"
{soon}
[channel.defragment]
kind = "defragment"
gather_s = {gather}
{soon}
[channel.reprocess]
kind = "reprocess"
{soon}
[channel.autoreply]
kind = "autoreply"
{soon}
[channel.piped]
kind = "pipe"
command = ["/bin/sh", "{script}", "{files}", "$RECIPIENT", "$QUEUE_ID"]
concurrency = 4
{soon}
[[conversion]]
recipient_domain = "{converted}"

[[conversion]]
recipient_domain = "{kept}"

[[conversion]]
recipient_domain = "{pieces}"
partial = true
channel = "defragment"

[[rewrite]]
pattern = "{stored}"
channel = "tcp_lmtp"

[[rewrite]]
pattern = "{held}"
source = "hold"
channel = "tcp_local"

[[rewrite]]
pattern = "{held}"
channel = "hold"

[[rewrite]]
pattern = "{again}"
channel = "reprocess"
address = "$U@{remote}"

[[rewrite]]
pattern = "{piped}"
channel = "piped"
"""
_ENTRIES = """
[[entry]]
action = "hold"
whole = true
recipient = ["*@{kept}"]

[[entry]]
action = "return"
whole = true
recipient = ["{refused}*"]
text = "not this one"

[[entry]]
action = "command"
command = ["/bin/cp", "$INPUT_FILE", "$OUTPUT_FILE"]
"""
_SCRIPT = """\
# A file is whole when it is in new: DIRECTORY RECIPIENT ID
set -e
cat > "$1/tmp/$3.$$"
mv "$1/tmp/$3.$$" "$1/new/$2:$3.$$"
"""


def _script(node: Node) -> str:
    return os.path.join(node.home, "etc", "piped.sh")


def _files(node: Node) -> str:
    return os.path.join(node.home, "piped")


def tables(node: Node) -> str:
    """Lines of the configuration."""
    return _TABLES.format(
        relay=node.relay,
        soon=_TRIED_SOON,
        script=_script(node),
        files=_files(node),
        gather=GATHER_S,
        converted=CONVERTED,
        kept=KEPT,
        pieces=PIECES,
        stored=STORED,
        held=HELD,
        again=AGAIN,
        remote=REMOTE,
        piped=PIPED,
    )


def furnish(node: Node) -> None:
    """What is beside the configuration, in a home that does not run yet. @raise OSError: it cannot be made."""
    for path, text in (
        (os.path.join(node.home, "etc", "conversions.toml"), _ENTRIES.format(kept=KEPT, refused=REFUSED)),
        (_script(node), _SCRIPT),
        (os.path.join(node.home, "away.txt"), AWAY_TEXT + "\n"),
    ):
        with open(path, "w") as target:
            target.write(text)
    for name in ("tmp", "new"):
        os.makedirs(os.path.join(_files(node), name))
    node.command("group", "add", TEAM, *MEMBERS, "posters=anyone")
    node.command("user", "vacation", AWAY, "--text-file", os.path.join(node.home, "away.txt"))


def release(node: Node) -> None:
    """Let go what is held. @raise OSError: the daemon cannot be asked, though it has had time to take up its queue."""
    end = time.monotonic() + START_S
    for channel in ("hold", "conversion"):
        words = ("qm", "release", "--channel", channel, "--all", "--yes")
        while node.try_command(*words)[0]:
            if time.monotonic() > end:
                node.command(*words)  # which tells why not
            time.sleep(0.2)


def collect(node: Node, ledger: Ledger) -> None:
    """Move what the program has written into the ledger, as mail that has arrived."""
    top = os.path.join(_files(node), "new")
    for name in os.listdir(top):
        path = os.path.join(top, name)
        with open(path, "rb") as source:
            token, digest = digest_after_mark(source.read().replace(b"\n", b"\r\n"))
        ledger.arrived.setdefault((token, name.partition(":")[0]), []).append(digest)
        os.unlink(path)


def unused(node: Node, ledger: Ledger) -> list[str]:
    """What has never been done, as problems. @raise OSError: the counters cannot be read."""
    counted = json.loads(node.command("qm", "counters", "show", "--json"))["channels"]
    idle = [] if ledger.wholes else ["no message in pieces was put together"]
    return idle + [
        f"channel {name} was never busy"
        for name in CHANNELS
        if not counted.get(name, {}).get("delivered", {}).get("messages")
    ]
