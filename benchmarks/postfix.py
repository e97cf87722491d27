"""
Debian's Postfix as it is measured: an instance of its own, in its own directories, set up to do its best.

The same duty as qmailpy's home: the mail of one domain into Maildirs, everything else to a relay. Process limits are
raised and what slows clients down is off. It logs as usual, to syslog; where no syslog runs, that costs it nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pwd import getpwnam

from benchmarks import processes
from benchmarks.node import ABREAST, DOMAIN, DOUBTING, PASSWORD, SLOW
from benchmarks.places import free_port, run

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

COMMON = """
compatibility_level = 3.6
queue_directory = {top}/queue
data_directory = {top}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
smtpd_relay_restrictions = permit_mynetworks, reject
virtual_mailbox_base = {top}/mail
virtual_mailbox_limit = 0
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
"""
"""main.cf of any Postfix of ours: what keeps it to itself."""

MAIN = (
    COMMON
    + """
myhostname = postfix.example.net
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_tls_security_level = may
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
smtpd_tls_session_cache_database = btree:{top}/data/smtpd_scache
smtpd_sasl_type = dovecot
smtpd_sasl_path = private/auth
smtpd_client_auth_rate_limit = 0
smtp_tls_security_level = none
default_process_limit = 200
in_flow_delay = 0
message_size_limit = 52428800
mailbox_size_limit = 0
virtual_mailbox_domains = {domain}
virtual_mailbox_maps = texthash:{top}/etc/mailboxes
virtual_destination_concurrency_limit = 50
virtual_initial_destination_concurrency = 20
relayhost = [127.0.0.1]:{relay}
smtp_destination_concurrency_limit = {abreast}
initial_destination_concurrency = 20
transport_maps = inline:{{ {slow_domain}=smtp:[127.0.0.1]:{slow}, {doubting_domain}=smtp:[127.0.0.1]:{doubting} }}
minimal_backoff_time = 1s
maximal_backoff_time = 1s
queue_run_delay = 1s
"""
)

SERVICES = """
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
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
"""
"""master.cf of any Postfix of ours, behind the ports it listens on."""

MASTER = (
    """
127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{submission} inet n - n - - smtpd
  -o smtpd_tls_security_level=encrypt -o smtpd_sasl_auth_enable=yes -o mynetworks=
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
"""
    + SERVICES
)


# Whom Postfix asks about logins: Dovecot's auth server, which alone runs of it. Its CPU time is not counted.
DOVECOT = """
protocols =
base_dir = {top}/dovecot
state_dir = {top}/dovecot
log_path = {top}/dovecot.log
ssl = no
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={top}
}}
service auth {{
  client_limit = 10000
  unix_listener {top}/queue/private/auth {{
    mode = 0666
  }}
}}
service anvil {{
  client_limit = 10000
}}
"""


def missing_for_postfix() -> str:
    """Why there is no Postfix to compare with; "" when there is."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("postfix") is None:
        return "no Postfix here (apt-get install postfix)"
    if shutil.which("dovecot", path=PATH) is None:
        return "no Dovecot here, which it asks about logins (apt-get install dovecot-pop3d)"
    return ""


class Postfix:
    """An instance."""

    name = "Postfix"

    def __init__(self, top: str, *, relay: int, certificate: str, key: str, slow: int = 9, doubting: int = 9) -> None:
        """
        @param top: a path that is not there yet, on the disk to measure.
        @param relay: port of 127.0.0.1 that takes remote mail; C{slow} and C{doubting}: as of L{benchmarks.node.Node}.
        @param certificate: the file of one, and C{key} its key's.
        """
        self._pair = (certificate, key)
        self._slow, self._doubting = slow, doubting
        self.login = ("", PASSWORD)
        self._dovecot: subprocess.Popen[bytes] | None = None
        self._top = top
        self._etc = os.path.join(top, "etc")
        self.port = free_port()
        self.submission_port = free_port()
        self.relay = relay

    def make(self, users: Sequence[str]) -> None:
        """Make the instance with its users."""
        user = getpwnam("postfix")
        self.login = (f"{users[-1]}@{DOMAIN}", PASSWORD)
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
                certificate=self._pair[0],
                key=self._pair[1],
                abreast=ABREAST,
                slow=self._slow,
                doubting=self._doubting,
                slow_domain=SLOW,
                doubting_domain=DOUBTING,
            ),
            "master.cf": MASTER.format(port=self.port, submission=self.submission_port),
            "dovecot.conf": DOVECOT.format(top=self._top, password=PASSWORD, uid=user.pw_uid, gid=user.pw_gid),
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
        command = [shutil.which("dovecot", path=PATH) or "dovecot", "-F", "-c", os.path.join(self._etc, "dovecot.conf")]
        with open(os.path.join(self._top, "dovecot.out"), "ab") as output:
            self._dovecot = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + 10.0
        while not os.path.exists(os.path.join(self._top, "queue", "private", "auth")):
            if self._dovecot.poll() is not None or time.monotonic() > deadline:
                raise OSError(f"Dovecot does not start; see {self._top}/dovecot.out and dovecot.log")
            time.sleep(0.05)

    def stop(self) -> int:
        """Stop it; 0 when it has ended."""
        if self._dovecot is not None:
            self._dovecot.terminate()
            self._dovecot.wait(10)
            self._dovecot = None
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
