"""
Logins by SCRAM with GNU SASL's client (Debian's gsasl): it makes the messages, and whoever calls carries them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable


def scram(
    send: Callable[[bytes], object], readline: Callable[[], bytes], login: str, password: str, binding: bytes = b""
) -> bytes:
    """
    Log in to a POP3 server.

    @param send: to the server.
    @param readline: the server's next line.
    @param binding: base64 of the channel's "tls-exporter", for SCRAM-SHA-256-PLUS; b"" = without.
    @return: the server's last response.
    """
    mechanism = "SCRAM-SHA-256-PLUS" if binding else "SCRAM-SHA-256"
    command = ["gsasl", "--client", "--quiet", f"--mechanism={mechanism}", f"--password={password}"]
    command += [f"--authentication-id={login}", *([] if binding else ["--no-cb"])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as gsasl:
        assert gsasl.stdin is not None and gsasl.stdout is not None
        try:
            if binding:
                gsasl.stdin.write(binding + b"\n")
                gsasl.stdin.flush()
            gsasl.stdout.readline()  # the mechanism's name
            # Its question stands before the message, on the same line.
            send(f"AUTH {mechanism} ".encode() + gsasl.stdout.readline().split()[-1] + b"\r\n")
            while (said := readline()).startswith(b"+ "):
                gsasl.stdin.write(said[2:].strip() + b"\n")
                gsasl.stdin.flush()
                send(gsasl.stdout.readline().strip() + b"\r\n")
            return said
        finally:
            gsasl.kill()
