"""
C{qmailpy dkim make|show}: the keys that sign our reports on TLS (RFC 8460 s.3), and what the DNS must say about them.
"""

from __future__ import annotations

import os

import click

from qmailpy.cli.context import Context
from qmailpy.cli.home import owners
from qmailpy.cli.output import print_json, print_line
from qmailpy.errors import CommandError

_STRING = 255
"""Octets a string of a TXT record holds (RFC 1035 s.3.3.14)."""

SERVICE = "tlsrpt"
"""What the keys may sign: other mail under them would be refused (RFC 8460 s.3)."""


@click.group()
def dkim() -> None:
    """Keys that sign reports on TLS, and the DNS records that tell of them."""


@dkim.command()
@click.argument("selector")
@click.option(
    "--type", "kind", type=click.Choice(["rsa", "ed25519"]), default="rsa", show_default=True, help="Kind of key."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def make(context: Context, selector: str, kind: str, as_json: bool) -> None:
    """
    Make a key named SELECTOR and print the record to publish.

    Any name is good that the domain has no record of yet, such as tls2026. RSA keys have 2048 bits; Ed25519 is not
    known to all receivers.
    """
    from qmailpy.auth.dkim import thd_make

    path = _path(context, selector)
    group = None
    if os.geteuid() == 0:
        server = context.config.server
        found = owners(server.user, server.group, server.directory_user).workers
        group = found.gid if found.uid else None
    try:
        thd_make(path, kind=kind, gid=group)
    except FileExistsError:
        raise CommandError(f"{path}: is there already; see qmailpy dkim show {selector}, or use another name") from None
    _tell(context, selector, path, as_json, new=True)


@dkim.command(short_help="Print the DNS records that belong to keys.")
@click.argument("selector", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def show(context: Context, selector: str | None, as_json: bool) -> None:
    """Print the record that belongs to the key SELECTOR; without it to the one in use."""
    chosen = selector or context.config.tlsrpt.dkim_selector
    if not chosen:
        raise CommandError("no key is in use ([tlsrpt] dkim_selector is empty); make one with: qmailpy dkim make NAME")
    _tell(context, chosen, _path(context, chosen), as_json)


def _path(context: Context, selector: str) -> str:
    """
    Where the key is.

    @raise CommandError: the selector cannot be one.
    """
    from qmailpy.auth.dkim import key_path
    from qmailpy.config.forms import selector as check

    if said := check(selector):
        raise CommandError(said)
    options = context.config.tlsrpt
    return key_path(context.home, selector, options.dkim_key if selector == options.dkim_selector else "")


def _tell(context: Context, selector: str, path: str, as_json: bool, *, new: bool = False) -> None:
    from qmailpy.auth.dkim import DkimError, record, record_name, thd_read_key

    config = context.config
    try:
        text = record(thd_read_key(path), service=SERVICE)
    except DkimError as error:
        raise CommandError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise CommandError(f"{path}: is missing; make it with: qmailpy dkim make {selector}") from None
    name = record_name(selector, config.report_signer)
    used = config.tlsrpt.dkim_selector == selector
    if as_json:
        print_json({"selector": selector, "file": path, "name": name, "type": "TXT", "text": text, "used": used})
        return
    if new:
        print_line(f"{path} is made. Publish this record in the DNS:")
        print_line()
    strings = " ".join(f'"{text[at : at + _STRING]}"' for at in range(0, len(text), _STRING))
    print_line(f"{name}. IN TXT ( {strings} )")
    if not used:
        print_line()
        print_line(f"Once it can be looked up: qmailpy config set tlsrpt.dkim_selector {selector}")
