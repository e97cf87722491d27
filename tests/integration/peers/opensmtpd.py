"""
OpenSMTPD: takes mail on a port and passes it on.

Its paths are built in (/var/spool/smtpd, /run/smtpd.sock): each instance has a mount namespace of its own where they
are somewhere else.
"""

from __future__ import annotations

import os

from tests.integration.peers.unpacked import PEERS, Peer, program

_CONFIGURATION = """
pki peer cert "{base}/cert.pem"
pki peer key "{base}/key.pem"
listen on 127.0.0.1 port {port} tls pki peer hostname opensmtpd.example
action "relay" relay host {scheme}://127.0.0.1:{next}
match from any for any action "relay"
"""

_START = """
set -e
mkdir -p /var/spool/smtpd /usr/libexec/opensmtpd /var/lib/opensmtpd/empty
mount --bind {peers}/usr/libexec/opensmtpd /usr/libexec/opensmtpd
mount --bind {base}/spool /var/spool/smtpd
mount --bind {base}/run /run
exec {program} -d -f {base}/smtpd.conf
"""


class OpenSmtpd(Peer):
    """Runs from its making to C{close}."""

    def __init__(self, next_port: int, *, tls: bool = True) -> None:
        """
        @param next_port: where all its mail goes.
        @param tls: with STARTTLS or not at all.
        """
        super().__init__("qmailpy-opensmtpd-")
        self.certificate(("rsa:2048",))
        for name, mode in (("spool", 0o711), ("run", 0o755)):
            os.mkdir(self.path(name))
            os.chmod(self.path(name), mode)
        smtpd = program("usr", "sbin", "smtpd")
        text = _CONFIGURATION.format(
            base=self.base, port=self.port, next=next_port, scheme="smtp+tls" if tls else "smtp+notls"
        )
        self.write("smtpd.conf", text.replace("\nmatch", " tls no-verify\nmatch") if tls else text)
        self.write("start", _START.format(base=self.base, peers=PEERS, program=smtpd))
        self.start(["unshare", "--mount", "sh", self.path("start")])
