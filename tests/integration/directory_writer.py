"""A process that adds users until it is killed, naming each on standard output once it is durable."""

from __future__ import annotations

import sys

from qmailpy.directory.accounts import Accounts
from qmailpy.directory.store import Store


def main(path: str, prefix: str, most: str) -> None:
    accounts = Accounts(Store(path), "o=qmailpy")
    for number in range(int(most)):
        address = accounts.thd_add_user(f"{prefix}{number}@example.org").address
        sys.stdout.write(address + "\n")
        sys.stdout.flush()


main(*sys.argv[1:])
