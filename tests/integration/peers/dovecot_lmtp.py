"""
Debian's Dovecot as an LMTP server, on a port and a UNIX socket: a mail store that answers for each recipient.

It knows C{joe@store.example} and C{eve@store.example}, and C{full@store.example}, whose mailbox takes next to nothing.
Needs root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile

from tests.integration.daemon_process import until
from tests.integration.peers.dovecot import PATH, USER
from tests.integration.peers.running import ended, free_port, messages_in

CONFIGURATION = """
protocols = lmtp
base_dir = {base}/run
state_dir = {base}/state
log_path = {base}/log
ssl = no
first_valid_uid = 0
first_valid_gid = 0
mail_location = maildir:{base}/mail/%n/Maildir
mail_plugins = quota
plugin {{
  quota = maildir:User
  quota_rule = *:storage=100M
}}
passdb {{
  driver = passwd-file
  args = username_format=%u {base}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {base}/users
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
  unix_listener {base}/lmtp.sock {{
    mode = 0666
  }}
}}
protocol lmtp {{
  postmaster_address = postmaster@store.example
}}
"""

PEOPLE = {"joe": "", "eve": "", "full": "userdb_quota_rule=*:bytes=10"}
DOMAIN = "store.example"


def missing() -> str:
    """Why it cannot be had here; "" when it can."""
    if os.geteuid() != 0:
        return "Dovecot is started by root alone"
    if not os.path.exists("/usr/lib/dovecot/lmtp"):
        return "no LMTP server of Dovecot here (apt-get install dovecot-lmtpd)"
    return ""


class DovecotLmtp:
    """Runs from its making to C{stop}. @ivar socket: the path of its UNIX socket."""

    def __init__(self) -> None:
        self.base = tempfile.mkdtemp(prefix="qmailpy-lmtp-")
        os.chmod(self.base, 0o755)
        self.port = free_port()
        self.socket = os.path.join(self.base, "lmtp.sock")
        owner = pwd.getpwnam(USER)
        os.mkdir(os.path.join(self.base, "mail"))
        os.chown(os.path.join(self.base, "mail"), owner.pw_uid, owner.pw_gid)
        with open(os.path.join(self.base, "users"), "w") as target:
            for name, more in PEOPLE.items():
                target.write(
                    f"{name}@{DOMAIN}:{{PLAIN}}x:{owner.pw_uid}:{owner.pw_gid}::{self.base}/mail/{name}::{more}\n"
                )
        path = os.path.join(self.base, "dovecot.conf")
        with open(path, "w") as target:
            target.write(CONFIGURATION.format(base=self.base, port=self.port))
        with open(os.path.join(self.base, "output"), "wb") as output:
            self.process = subprocess.Popen(
                [shutil.which("dovecot", path=PATH) or "dovecot", "-F", "-c", path],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            until(self._answers, 15)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2.0) as connection:
                return connection.recv(3) == b"220"
        except OSError:
            return False

    def mailbox(self, user: str) -> list[bytes]:
        """What was delivered to somebody."""
        return messages_in(os.path.join(self.base, "mail", user, "Maildir", "new"))

    def stop(self) -> None:
        """End it, with its processes, and remove what it wrote."""
        ended(self.process)
        shutil.rmtree(self.base, ignore_errors=True)
