"""C{qmailpy test mapping}."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.test_check_config import HomeCase

RULES = """
[[from_access]]
action = "reject"
sender = [".spam.example"]

[[send_access]]
action = "defer"
source = ["tcp_local"]
recipient = ["slow@*"]
text = "Later"

[[send_access]]
action = "tag"
tag = "home"
destination = ["local"]

[[mail_access]]
action = "reject"
listener = ["smtp"]
client = ["192.0.2.0/24"]
helo = ["bad.example"]
"""


class MappingTests(HomeCase):
    """Which rule decides, and why."""

    def setUp(self) -> None:
        super().setUp()
        with open(self.file, "a") as target:
            target.write(RULES)

    def line(self, number: int) -> int:
        """Of the so manyth of our rules."""
        heads = [
            at for at, line in enumerate(self.text().splitlines(), 1) if line.startswith("[[") and "_access" in line
        ]
        return heads[number]

    def json(self, *words: str) -> Any:
        outcome = self.run_command("test", "mapping", *words, "--json")
        self.assertEqual(outcome.status, 0, outcome.err)
        return json.loads(outcome.out)

    def test_each_rule_is_told_with_its_line_up_to_the_one_that_decides(self) -> None:
        outcome = self.run_command("test", "mapping", "send_access", "recipient=joe@example.org", "destination=local")
        first, second, last = outcome.out.splitlines()
        self.assertEqual(
            first, f'{self.file}:{self.line(1)}: [[send_access]] 1 does not fit: source "" fits none of its entries'
        )
        self.assertEqual(second, f"{self.file}:{self.line(2)}: [[send_access]] 2 fits: destination fits local")
        self.assertEqual(last, "tag home")

    def test_the_same_for_programs(self) -> None:
        found = self.json("from_access", "sender=a@b.spam.example")
        self.assertEqual(found["decides"]["reply"], "550 5.7.1 Mail from this sender is not accepted here")
        self.assertEqual((found["decides"]["file"], found["decides"]["line"]), (self.file, self.line(0)))
        self.assertIsNone(self.json("from_access", "sender=<>")["decides"])
        self.assertEqual(self.json("port_access", "client=192.0.2.1")["steps"], [])

    def test_probes_with_bars(self) -> None:
        found = self.json("SEND_ACCESS", "tcp_local|a@x.example|tcp_local|slow@y.example")
        self.assertEqual(found["decides"]["reply"], "450 4.7.1 Later")
        port = next(line for line in self.text().splitlines() if line.startswith("endpoint = ") and "tcp:" in line)
        number = port.split("tcp:")[1].split(":")[0].strip('"')
        self.change('name = "smtp"', 'name = "smtp"  # the first')
        bars = f"TCP|10.0.0.1|{number}|192.0.2.9|4000|SMTP/bad.example|MAIL|tcp_local|a@x.example|local|joe@example.org"
        found = self.json("mail_access", bars)
        self.assertEqual((found["probe"]["client"], found["probe"]["helo"]), ("192.0.2.9", "bad.example"))

    def test_what_is_no_probe_is_refused_in_a_line(self) -> None:
        for words, said in (
            (("mail_acces", "client=192.0.2.1"), 'there is no access table "mail_acces"; did you mean "mail_access"?'),
            (("mail_access", "klient=192.0.2.1"), "mail_access does not look at klient; it looks at listener,"),
            (("mail_access", "192.0.2.1"), '"192.0.2.1" is no KEY=VALUE'),
            (("mail_access", "client=x"), 'client: "x" is no IP address'),
            (("send_access", "a|b"), "send_access has 4 parts between bars, not 2"),
        ):
            outcome = self.run_command("test", "mapping", *words)
            self.assertEqual(outcome.status, 1, outcome.err)
            self.assertIn(said, outcome.err)
            self.assertEqual(len(outcome.err.splitlines()), 1)
