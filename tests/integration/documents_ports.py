"""Gives a home that a document has made ports nobody else has: C{python -m tests.integration.documents_ports HOME}."""

from __future__ import annotations

import sys

import tomlkit

from qmailpy.config.load import config_path


def main(home: str) -> None:
    """Sockets below HOME for all listeners, and any port for the directory."""
    path = config_path(home)
    with open(path) as source:
        document = tomlkit.parse(source.read())
    for listener in document["listener"]:  # type: ignore[union-attr]
        if not listener["endpoint"].startswith("unix:"):  # type: ignore[index, union-attr]
            listener["endpoint"] = f"unix:run/{listener['name']}.sock"  # type: ignore[index]
    document["directory"]["endpoint"] = "tcp:0:interface=127.0.0.1"  # type: ignore[index]
    with open(path, "w") as target:
        target.write(tomlkit.dumps(document))


if __name__ == "__main__":
    main(sys.argv[1])
