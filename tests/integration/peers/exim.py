"""Exim: takes mail on a port with all it can do, keeps C{@here.example} in a Maildir and passes the rest on."""

from __future__ import annotations

import os
import pwd

from tests.integration.peers.running import messages_in
from tests.integration.peers.unpacked import Peer, program

_CONFIGURATION = """
primary_hostname = exim.example
exim_path = {program}
spool_directory = {base}/spool
log_file_path = {base}/spool/%slog
pid_file_path = {base}/spool/pid
exim_user = Debian-exim
exim_group = Debian-exim
never_users =
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
tls_advertise_hosts = *
tls_certificate = {base}/cert.pem
tls_privatekey = {base}/key.pem
chunking_advertise_hosts = *
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
accept_8bitmime = true
acl_smtp_rcpt = yes
acl_smtp_data = yes
message_size_limit = 50M
bounce_return_body = false
keep_environment =
begin acl
yes:
  accept
begin routers
here:
  driver = accept
  domains = here.example
  transport = maildir
there:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = smtp
begin transports
maildir:
  driver = appendfile
  maildir_format
  directory = {base}/spool/mail
  user = Debian-exim
  create_directory
smtp:
  driver = smtp
  port = {next}
  hosts_require_tls = *
  hosts_try_chunking = *
  tls_verify_certificates =
  tls_try_verify_hosts =
begin retry
* * F,1h,1s
"""


class Exim(Peer):
    """Runs from its making to C{close}."""

    def __init__(self, next_port: int = 0) -> None:
        """@param next_port: where mail for others goes, with STARTTLS and BDAT."""
        super().__init__("qmailpy-exim-")
        owner = pwd.getpwnam("Debian-exim")
        self.certificate()
        os.mkdir(self.path("spool"))
        for name in ("spool", "cert.pem", "key.pem"):
            os.chown(self.path(name), owner.pw_uid, owner.pw_gid)
        exim = program("usr", "sbin", "exim4")
        text = _CONFIGURATION.format(program=exim, base=self.base, port=self.port, next=next_port)
        self.write("exim.conf", text)
        self.start([exim, "-C", self.path("exim.conf"), "-bdf", "-q1s"])

    def mailbox(self) -> list[bytes]:
        """What is in the Maildir."""
        folder = self.path("spool", "mail", "new")
        return messages_in(folder)
