"""
Debian's Dovecot as a POP3 server over Maildirs: the other program that must see in them what we see.

Needs root, as Dovecot's own start does; everything it writes beside the Maildirs is in a directory of its own.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time

from tests.integration.peers.running import ended, free_port

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
START_S = 15.0
USER = "nobody"
"""Whom the Maildirs are given to: Dovecot refuses to read mail as root."""

PASSDB = "passdb {{\n  driver = static\n  args = password={password}\n}}\n"

CONFIGURATION = """
protocols = pop3
base_dir = {base}/run
state_dir = {base}/state
log_path = {base}/log
ssl = no
disable_plaintext_auth = no
first_valid_uid = 0
first_valid_gid = 0
mail_location = maildir:{mail}/%d/%n/Maildir
{passdb}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={base} allow_all_users=yes
}}
service pop3-login {{
  {login}
  inet_listener pop3 {{
    address = 127.0.0.1
    port = {port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service pop3 {{
  {pop3}
}}
protocol pop3 {{
  mail_max_userip_connections = 10000
}}
{extra}
"""


def missing() -> str:
    """Why it cannot be had here; "" when it can."""
    if os.geteuid() != 0:
        return "Dovecot is started by root alone"
    if shutil.which("dovecot", path=PATH) is None:
        return "no dovecot here (apt-get install dovecot-pop3d)"
    return ""


def give(mail: str, owner: pwd.struct_passwd) -> None:
    """Give the Maildirs to a user, and let everybody pass through to them."""
    for folder, folders, names in os.walk(mail):
        for name in (*folders, *names):
            os.chown(os.path.join(folder, name), owner.pw_uid, owner.pw_gid)
    os.chown(mail, owner.pw_uid, owner.pw_gid)
    above = os.path.dirname(mail)
    while os.stat(above).st_mode & 0o001 == 0:
        os.chmod(above, os.stat(above).st_mode | 0o111)
        above = os.path.dirname(above)


class Dovecot:
    """A running Dovecot."""

    name = "Dovecot"

    def __init__(
        self, mail: str, password: str, *, login: str = "", pop3: str = "", extra: str = "", passdb: str = ""
    ) -> None:
        """
        @param mail: the directory of DOMAIN/USER/Maildir.
        @param password: everybody's.
        @param login: settings of the service pop3-login.
        @param pop3: settings of the service pop3.
        @param extra: further settings.
        @param passdb: who may log in, and where that is; "" = everybody with the password, here.
        @raise OSError: it does not start.
        """
        self.base = tempfile.mkdtemp(prefix="qmailpy-dovecot-")
        os.chmod(self.base, 0o755)
        self.port = free_port()
        path = self._path = os.path.join(self.base, "dovecot.conf")
        owner = pwd.getpwnam(USER)
        give(mail, owner)
        with open(path, "w") as target:
            target.write(
                CONFIGURATION.format(
                    base=self.base,
                    mail=mail,
                    passdb=passdb or PASSDB.format(password=password),
                    port=self.port,
                    login=login,
                    pop3=pop3,
                    extra=extra,
                    uid=owner.pw_uid,
                    gid=owner.pw_gid,
                )
            )
        self.process = subprocess.Popen(
            [shutil.which("dovecot", path=PATH) or "dovecot", "-F", "-c", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def doveadm(self, *arguments: str, stdin: bytes = b"") -> str:
        """What C{doveadm} prints. @raise subprocess.CalledProcessError: it fails."""
        command = [shutil.which("doveadm", path=PATH) or "doveadm", "-c", self._path, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=20)
        return done.stdout.decode()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _wait(self) -> None:
        end = time.monotonic() + START_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 2.0) as connection:
                    connection.settimeout(2.0)
                    if connection.recv(3) == b"+OK":
                        return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                raise OSError(f"Dovecot does not start:\n{self.log()}")
            time.sleep(0.02)

    def log(self) -> str:
        """What it has logged."""
        try:
            with open(os.path.join(self.base, "log"), errors="replace") as source:
                return source.read()[-3000:]
        except OSError:
            return ""

    def stop(self) -> None:
        """End it, with its processes, and remove what it wrote."""
        ended(self.process)
        shutil.rmtree(self.base, ignore_errors=True)
