"""Tests of the files that say whose certificates clients may log in with."""

from __future__ import annotations

import os

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.auth.certificates import thd_read_clients
from qmailpy.config.load import examine
from qmailpy.config.schema import Config, ListenerConfig, ServerConfig
from qmailpy.errors import ConfigError
from tests.config.test_load import MINIMAL

LISTENER = ListenerConfig(name="in", kind="submission", endpoint="tcp:587", client_certificates="ask")
MARK = "AB:" * 31 + "cd"


class ReadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.makedirs(self.home)

    def read(self, text: str, key: str = "client_map_file") -> list[str]:
        """The problems there are."""
        with open(f"{self.home}/file", "w") as target:
            target.write(text)
        listener = evolve(LISTENER, client_ca_file="file") if key == "client_ca_file" else LISTENER
        listener = evolve(listener, client_map_file="file") if key == "client_map_file" else listener
        config = Config(home=self.home, server=ServerConfig(hostname="x.example"), listeners=(listener,))
        try:
            self.assertEqual(list(thd_read_clients(config)), ["in"])
        except ConfigError as error:
            return list(error.problems)
        return []

    def test_lines_of_a_map(self) -> None:
        self.assertEqual(
            self.read(f"# who\n\n{MARK} joe@example.org\n  {MARK.replace(':', '')}\tann@example.org\r\n"), []
        )
        for bad in ("joe@example.org", f"{MARK} a b", f"{MARK[:-1]} a", f"{MARK}:00 a", f"joe {MARK}"):
            [problem] = self.read(f"#\n{bad}\n")
            self.assertEqual(
                problem,
                f"[[listener]] in client_map_file: {self.home}/file: line 2 is no SHA-256 fingerprint with a login "
                "behind it; see: openssl x509 -fingerprint -sha256",
            )

    def test_authorities_that_are_none_or_missing(self) -> None:
        self.assertIn("holds no PEM certificate", self.read("nonsense", "client_ca_file")[0])
        os.unlink(f"{self.home}/file")
        config = Config(
            home=self.home,
            server=ServerConfig(hostname="x.example"),
            listeners=(evolve(LISTENER, client_ca_file="file", client_map_file="file"),),
        )
        problems = self.assertRaises(ConfigError, thd_read_clients, config).problems
        self.assertEqual([problem.rpartition(": ")[2] for problem in problems], ["No such file or directory"] * 2)

    def test_who_does_not_ask_reads_nothing(self) -> None:
        listener = evolve(LISTENER, client_certificates="none", client_ca_file="file")
        config = Config(home=self.home, server=ServerConfig(hostname="x.example"), listeners=(listener,))
        self.assertEqual(thd_read_clients(config), {})


class ConfigurationTests(SynchronousTestCase):
    def problems(self, lines: str, kind: str = "submission") -> str:
        text = MINIMAL + f'[[listener]]\nname = "in"\nchannel = "local"\nkind = "{kind}"\nendpoint = "tcp:1"\n{lines}'
        return "\n".join(map(str, examine(text, "F", "/home")[1]))

    def test_what_must_fit_together(self) -> None:
        asked = 'client_certificates = "ask"\n'
        self.assertIn("needs client_ca_file or client_map_file", self.problems(asked))
        self.assertEqual(self.problems(asked + 'client_ca_file = "tls/clients.pem"\n'), "")
        self.assertEqual(self.problems(asked + 'client_map_file = "tls/clients"\n'), "")
        more = asked + 'client_ca_file = "tls/clients.pem"\n'
        self.assertIn("nothing without TLS", self.problems(more + 'tls = "none"\n'))
        self.assertIn("is nothing for pop3", self.problems(more, "pop3"))
        self.assertIn('right would be "none" or "ask" or "require"', self.problems('client_certificates = "always"\n'))
