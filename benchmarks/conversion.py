"""
What a conversion costs: messages into a Maildir, without one, through one that has nothing to do, with what is built
in, and with a command that copies. C{python -m benchmarks.conversion [--messages N]}.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping

import click

from benchmarks import postfix_tools
from benchmarks.measure import Run, to_maildir
from benchmarks.node import Node
from benchmarks.places import ended_by_signals, scratch
from benchmarks.postfix_tools import Shape

USER = "bench"
SHAPE = Shape(octets=10_240, connections=10, reuse=True)

CHANNEL = '[channel.conversion]\nkind = "conversion"\nconcurrency = 4\n[[conversion]]\nsource = "tcp_local"\n'
TABLES: Mapping[str, str | None] = {
    "without a conversion": None,
    "through it, no entry": "",
    "an entry that does not fit": '[[entry]]\naction = "delete"\nfile = ["*.exe"]\n',
    "disclaimer": '[[entry]]\naction = "disclaimer"\ntext = "with care"\n',
    "command that copies (cp)": '[[entry]]\naction = "command"\ncommand = ["/bin/cp", "$INPUT", "$OUTPUT"]\n',
}
"""What is measured: name, and conversions.toml (C{None}: no selection either)."""


def measure_conversion(place: str, table: str | None, messages: int) -> Run:
    """
    One measurement, on a home of its own.

    @raise OSError: not all of it arrived.
    """
    node = Node(place, relay=9)
    node.make([USER], queue="" if table is None else CHANNEL)
    if table is not None:
        with open(os.path.join(node.home, "etc", "conversions.toml"), "w") as target:
            target.write(table)
    node.start()
    try:
        to_maildir(node, USER, SHAPE, max(20, messages // 20))  # warm
        return to_maildir(node, USER, SHAPE, messages)
    finally:
        node.stop()


@click.command()
@click.option("--messages", default=1000, show_default=True, help="So many each time.")
def main(messages: int) -> None:
    """Measure conversions."""
    said = postfix_tools.missing_for_load()
    if said:
        raise click.ClickException(said)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    click.echo(f"{messages} messages, {SHAPE}")
    with ended_by_signals(), scratch("conversion") as root:
        for number, (name, table) in enumerate(TABLES.items()):
            run = measure_conversion(os.path.join(root, str(number)), table, messages)
            click.echo(
                f"{name:28} {run.accepted:7.0f} accepted/s {run.arrived:7.0f} delivered/s {run.cpu_ms:6.2f} ms CPU each"
            )


if __name__ == "__main__":
    main()
