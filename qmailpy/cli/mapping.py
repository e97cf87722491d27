"""C{qmailpy test mapping}: which rule of an access table decides, and why."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import attrs
import click

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_json, print_line
from qmailpy.config.endpoint import parse_endpoint
from qmailpy.config.load import config_path
from qmailpy.config.problems import nearest
from qmailpy.config.schema import ACCESS_KEYS, Config
from qmailpy.errors import CommandError
from qmailpy.policy.lists import thd_read_lists
from qmailpy.policy.ruling import Facts
from qmailpy.policy.tables import Table

_PORT = ("", "", "port", "client", "")  # TCP|our address|our port|client's address|client's port
_BARS = {
    "port_access": _PORT,
    "from_access": (*_PORT, "helo", "", "source", "sender", "user"),
    "orig_send_access": ("source", "sender", "destination", "recipient"),
    "send_access": ("source", "sender", "destination", "recipient"),
    "mail_access": (*_PORT, "helo", "", "source", "sender", "destination", "recipient"),
}
"""The probes of PMDF and its heirs: what stands between the bars."""


@click.command("mapping", short_help="Show which rule of an access TABLE decides.")
@click.argument("table", metavar="TABLE")
@click.argument("probe", metavar="PROBE...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def mapping(context: Context, table: str, probe: tuple[str, ...], as_json: bool) -> None:
    """
    Show which rule of an access TABLE decides about PROBE, and why.

    PROBE is KEY=VALUE words, as in "client=192.0.2.1 sender=a@example.net", or the old form with bars:
    "tcp_local|a@example.net|local|b@example.org".
    """
    name = table.lower()
    if name not in ACCESS_KEYS:
        raise CommandError(f'there is no access table "{table}"{nearest(name, ACCESS_KEYS)}')
    config = context.config
    facts = _facts(config, name, probe)
    asked = Table(name, getattr(config, name), thd_read_lists(config))
    steps = asked.explain(facts)
    decides = len(steps) - 1 if steps and steps[-1].fits else None
    file = config_path(context.home)
    reply = asked.rules[decides].reply if decides is not None else None
    if as_json:
        print_json(
            {
                "table": name,
                "probe": {key: getattr(facts, key) for key in ACCESS_KEYS[name]},
                "steps": [{"file": file, "line": step.rule.line, "fits": step.fits, "why": step.why} for step in steps],
                "decides": None
                if decides is None
                else {
                    "file": file,
                    "line": steps[decides].rule.line,
                    "action": steps[decides].rule.action,
                    "tag": steps[decides].rule.tag,
                    "reply": str(reply or ""),
                },
            }
        )
        return
    for number, step in enumerate(steps, 1):
        print_line(
            f"{file}:{step.rule.line}: [[{name}]] {number} {'fits' if step.fits else 'does not fit'}: {step.why}"
        )
    if decides is None:
        print_line("no rule fits: mail goes on" if steps else f"there are no rules in [[{name}]]: mail goes on")
        return
    rule = steps[decides].rule
    print_line(f"{rule.action}{f' {rule.tag}' if rule.tag else ''}{f': {reply}' if reply else ''}")


def _facts(config: Config, table: str, probe: Sequence[str]) -> Facts:
    """@raise CommandError: the probe is not of either form."""
    values: dict[str, Any] = {}
    if len(probe) == 1 and "|" in probe[0]:
        parts, wanted = probe[0].split("|"), _BARS[table]
        if len(parts) != len(wanted):
            raise CommandError(f"{table} has {len(wanted)} parts between bars, not {len(parts)}")
        values = {key: part for key, part in zip(wanted, parts, strict=True) if key}
        values["helo"] = values.get("helo", "").removeprefix("SMTP/")
        values = {key: value for key, value in values.items() if value}
        port = values.pop("port", "")
        found = [one for one in config.listeners if str(parse_endpoint(one.endpoint, config.home).port) == port]
        if found:
            values.update(listener=found[0].name)
            values.setdefault("source", found[0].channel)
    else:
        for word in probe:
            key, sign, value = word.partition("=")
            if not sign or key not in ACCESS_KEYS[table]:
                said = f'"{word}" is no KEY=VALUE' if not sign else f"{table} does not look at {key}"
                raise CommandError(f"{said}; it looks at {', '.join(ACCESS_KEYS[table])}")
            values[key] = tuple(filter(None, value.split(","))) if key == "tagged" else value.removeprefix("<>")
    if values.get("client"):
        try:
            ip_address(values["client"])
        except ValueError:
            raise CommandError(f'client: "{values["client"]}" is no IP address') from None
    known = {field.name for field in attrs.fields(Facts)}
    return Facts(**{key: value for key, value in values.items() if key in known})
