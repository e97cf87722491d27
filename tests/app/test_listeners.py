"""The listeners of a mail worker, and their certificates."""

from __future__ import annotations

import datetime
from typing import Any, cast
from unittest import mock

from attrs import evolve
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.context import ChildContext
from qmailpy.app.listeners import MailListeners
from qmailpy.cli.certificate import self_signed
from qmailpy.config.schema import Config, ListenerConfig, ServerConfig
from qmailpy.errors import ConfigError
from qmailpy.servers.tls import OWN, Certificates, Pair

CERTIFICATE, KEY = self_signed("mx.example", datetime.datetime.now(datetime.UTC))
GOOD = {OWN: Pair(certificate=CERTIFICATE, key=KEY)}


class CertificatesTests(SynchronousTestCase):
    """L{MailListeners} and TLS."""

    def setUp(self) -> None:
        self.pairs: dict[str, Pair] | None = None
        self.made: list[Certificates | None] = []

    def keys(self) -> dict[str, Pair]:
        if self.pairs is None:
            raise ConfigError(("tls/cert.pem: there is none",))
        return self.pairs

    def config(self, tls: str) -> Config:
        listener = ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:25", tls=tls)
        return Config(home="/nowhere", server=ServerConfig(hostname="mx.example"), listeners=(listener,))

    def listeners(self, tls: str) -> MailListeners:
        nothing: Any = None
        context = ChildContext(
            reactor=nothing,
            config=self.config(tls),
            home="/nowhere",
            role="mta",
            index=0,
            shards=("0",),
            sockets={},
            session="",
            ready=lambda: None,
            control=nothing,
            keys=self.keys,
        )
        listeners = MailListeners(context)

        def make(listener: ListenerConfig, certificates: Certificates | None) -> Any:
            made = mock.Mock()
            made.site.listener, made.site.certificates = listener, certificates
            return made

        listeners.open(self.config(tls), make)
        return listeners

    def reload(self, listeners: MailListeners, tls: str) -> Certificates | None:
        """What connections are made with behind it."""
        config = self.config(tls)
        listeners.use(listeners.thd_certificates(config))
        listeners.reconfigure(config, {})
        (site,) = listeners.sites
        found: Certificates | None = cast(Any, site).certificates
        return found

    def test_certificates_that_were_missing_are_there_with_a_reload(self) -> None:
        """While they are missing a reload is no worse than the start."""
        with capturedLogs() as logs:
            listeners = self.listeners("starttls")
            self.assertIsNone(self.reload(listeners, "starttls"))
        self.assertEqual([one["problem"] for one in logs], ["tls/cert.pem: there is none"] * 2)
        self.pairs = {OWN: Pair(certificate=b"no", key=b"such")}
        self.assertIsNone(self.reload(listeners, "starttls"))
        self.pairs = GOOD
        self.assertIsNotNone(self.reload(listeners, "starttls"))

    def test_tls_that_was_not_wanted_is_had_with_a_reload(self) -> None:
        """And who does not want it needs no certificates."""
        listeners = self.listeners("none")
        self.assertIsNone(self.reload(listeners, "none"))
        self.pairs = GOOD
        found = self.reload(listeners, "implicit")
        self.assertIsNotNone(found)
        self.assertIs(self.reload(listeners, "starttls"), found)

    def test_certificates_that_are_broken_meanwhile_refuse_the_reload(self) -> None:
        """Before anything has changed; those there were go on."""
        self.pairs = GOOD
        listeners = self.listeners("starttls")
        for bad in (None, {OWN: evolve(GOOD[OWN], key=b"no key")}):
            self.pairs = bad
            self.assertRaises(ConfigError, listeners.thd_certificates, self.config("starttls"))
            self.assertIsNone(listeners.thd_certificates(self.config("none")))
