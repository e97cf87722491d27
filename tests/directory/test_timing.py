"""How long a refused login takes tells nobody who exists."""

from __future__ import annotations

import statistics
import time

from argon2 import PasswordHasher
from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory import password
from qmailpy.directory.embedded import EmbeddedDirectory
from tests.directory.parts import example

ROUNDS = 21


class TimingTests(SynchronousTestCase):
    def test_refused_logins_take_the_same_time_whoever_it_is(self) -> None:
        """Processor time, which others on the machine do not change much; the medians of many, taken in turn."""
        accounts = example(self)
        hasher = PasswordHasher(time_cost=1, memory_cost=4096, parallelism=1)
        self.patch(password, "_HASHER", hasher)
        self.patch(password, "_DUMMY", password._nobodys())
        for name in ("joe", "off", "quick"):
            accounts.thd_add_user(f"{name}@example.org", secret=b"sesame")
        accounts.thd_set_user("off@example.org", status="disabled")
        accounts.thd_add_alias("info@example.org", ["joe@example.org", "x@remote.example"])
        quick = accounts.store.thd_by_address("quick@example.org")
        assert quick is not None
        stored = password.ssha(b"sesame")
        accounts.store.thd_modify(
            quick.name, lambda entry: type(entry)(entry.name, {**entry.attributes, "userpassword": (stored,)})
        )
        directory = EmbeddedDirectory(accounts.store, maybeDeferred)
        self.assertIsNotNone(directory.thd_authenticate("quick@example.org", b"sesame"))
        times: dict[str, list[float]] = {name: [] for name in ("joe", "off", "quick", "info", "nobody", "*)(uid=*")}
        for _ in range(ROUNDS):
            for name, spent in times.items():
                began = time.process_time()
                self.assertIsNone(directory.thd_authenticate(f"{name}@example.org", b"wrong"))
                spent.append(time.process_time() - began)
        medians = {name: statistics.median(spent) for name, spent in times.items()}
        self.assertLess(max(medians.values()), 1.3 * min(medians.values()), medians)
