"""Gives a home that a document has made ports nobody else has: C{python -m tests.integration.documents_ports HOME}."""

from __future__ import annotations

import sys
from typing import Any

import tomlkit

from qmailpy.config.load import config_path


def main(home: str) -> None:
    """Sockets below HOME for all listeners, and any port for the directory."""
    path = config_path(home)
    with open(path) as source:
        document: Any = tomlkit.parse(source.read())
    for listener in document["listener"]:
        if not listener["endpoint"].startswith("unix:"):
            listener["endpoint"] = f"unix:run/{listener['name']}.sock"
    document["directory"]["endpoint"] = "tcp:0:interface=127.0.0.1"
    with open(path, "w") as target:
        target.write(tomlkit.dumps(document))


if __name__ == "__main__":
    main(sys.argv[1])
