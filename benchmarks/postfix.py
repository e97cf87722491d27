"""
Debian's Postfix as it is measured: an instance of its own, in its own directories, set up to do its best.

The same duty as qmailpy's home: the mail of one domain into Maildirs, everything else to a relay. Process limits are
raised and what slows clients down is off. It logs as usual, to syslog; where no syslog runs, that costs it nothing.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pwd import getpwnam

from benchmarks import processes
from benchmarks.node import DOMAIN
from benchmarks.places import free_port, run

MAIN = """
compatibility_level = 3.6
queue_directory = {top}/queue
data_directory = {top}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.example.net
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_tls_security_level = none
smtp_tls_security_level = none
default_process_limit = 200
in_flow_delay = 0
message_size_limit = 52428800
mailbox_size_limit = 0
virtual_mailbox_limit = 0
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {top}/mail
virtual_mailbox_maps = texthash:{top}/etc/mailboxes
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_destination_concurrency_limit = 50
virtual_initial_destination_concurrency = 20
relayhost = [127.0.0.1]:{relay}
smtp_destination_concurrency_limit = 50
initial_destination_concurrency = 20
"""

MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
proxywrite unix -       -       n       -       1       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
"""


def missing_for_postfix() -> str:
    """Why there is no Postfix to compare with; "" when there is."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("postfix") is None:
        return "no Postfix here (apt-get install postfix)"
    return ""


class Postfix:
    """An instance."""

    name = "Postfix"

    def __init__(self, top: str, *, relay: int) -> None:
        """
        @param top: a path that is not there yet, on the disk to measure.
        @param relay: port of 127.0.0.1 that takes remote mail.
        """
        self._top = top
        self._etc = os.path.join(top, "etc")
        self.port = free_port()
        self.relay = relay

    def make(self, users: Sequence[str]) -> None:
        """Make the instance with its users."""
        user = getpwnam("postfix")
        for name in ("", "etc", "queue", "data", "mail"):
            os.mkdir(os.path.join(self._top, name))
        for name in ("data", "mail"):
            os.chown(os.path.join(self._top, name), user.pw_uid, user.pw_gid)
        daemons = run("postconf", "-h", "daemon_directory").strip()
        files = {
            "main.cf": MAIN.format(
                top=self._top,
                daemons=daemons,
                domain=DOMAIN,
                uid=user.pw_uid,
                gid=user.pw_gid,
                relay=self.relay,
            ),
            "master.cf": MASTER.format(port=self.port),
            "mailboxes": "".join(f"{one}@{DOMAIN} {one}/Maildir/\n" for one in users),
        }
        for name, text in files.items():
            with open(os.path.join(self._etc, name), "w") as target:
                target.write(text)
        for name in ("postfix-files", "dynamicmaps.cf"):
            with suppress(FileNotFoundError):
                shutil.copy(os.path.join("/etc/postfix", name), self._etc)

    def new(self, user: str) -> str:
        """The directory a user's new mail is in."""
        return os.path.join(self._top, "mail", user, "Maildir", "new")

    @property
    def pid(self) -> int:
        """Process id of its master. @raise OSError: it does not run."""
        with open(os.path.join(self._top, "queue", "pid", "master.pid")) as source:
            return int(source.read())

    def start(self) -> None:
        """@raise OSError: it does not start."""
        run("postfix", "-c", self._etc, "start")

    def stop(self) -> int:
        """Stop it; 0 when it has ended."""
        try:
            pid = self.pid
        except (OSError, ValueError):
            return 0
        with suppress(OSError):
            run("postfix", "-c", self._etc, "stop")
        deadline = time.monotonic() + 10.0
        while processes.process(pid) is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        return int(processes.process(pid) is not None)
