"""Sockets that cannot be had: one line each, with what helps."""

from __future__ import annotations

import os
import socket

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.sockets import Listening
from qmailpy.config.schema import Config, DirectoryConfig, ListenerConfig, ServerConfig
from qmailpy.errors import ConfigError


class ListeningTests(SynchronousTestCase):
    """L{Listening}."""

    def problems(self, smtp: str, ldap: str = "") -> tuple[str, ...]:
        """What is said of two listeners that cannot be opened."""
        home = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(home, "run"))
        config = Config(
            home=home,
            server=ServerConfig(hostname="mail.example.org"),
            directory=DirectoryConfig(endpoint=ldap),
            listeners=(ListenerConfig(name="smtp", kind="smtp", endpoint=smtp),),
        )
        error = self.assertRaises(ConfigError, Listening().open, config)
        return tuple(str(problem) for problem in error.problems)

    def test_a_taken_port_tells_how_to_find_who_has_it(self) -> None:
        """The commonest of all mistakes: another mail server runs. Each listener has its own key to change."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            where = f"tcp:{port}:interface=127.0.0.1"
            smtp, ldap = self.problems(where, where)
        self.assertIn("Address already in use", smtp)
        self.assertIn(f'ss -ltnp "sport = {port}"', smtp)
        self.assertIn("qmailpy config set listener.smtp.endpoint", smtp)
        self.assertIn("qmailpy config set directory.endpoint", ldap)

    def test_a_foreign_address_is_told(self) -> None:
        """An address of another machine (RFC 5737), as after a move."""
        (problem,) = self.problems("tcp:0:interface=192.0.2.1")
        self.assertIn("this machine does not have that address", problem)
