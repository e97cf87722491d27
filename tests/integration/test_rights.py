"""The daemon started as root: whom its processes run as, and what each of them can and cannot get at."""

from __future__ import annotations

import datetime
import grp
import os
import pwd
import signal
import smtplib
import ssl
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from functools import cache

from cryptography import x509
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from qmailpy.cli.certificate import self_signed
from qmailpy.control import running
from qmailpy.directory.paths import secret_path
from tests.integration.daemon_process import ROOT, gone, until
from tests.integration.node import Node

WORKER = "nobody"
DIRECTORY = "daemon"
STRANGER = "games"


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise SkipTest(f"no system user {name} to run as") from None


_PATH = os.pathsep.join((ROOT, *(path for path in sys.path if path.endswith("site-packages"))))


@cache
def _python() -> str:
    """
    A Python that another user may run, with what qmailpy needs; "" if there is none.

    Ours may lie below somebody's closed home directory; the system's of the same version will do then.
    """
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            done = subprocess.run(
                [python, "-P", "-c", "import qmailpy.app.roles"],
                user=pwd.getpwnam(WORKER).pw_uid,
                group=pwd.getpwnam(WORKER).pw_gid,
                extra_groups=[],
                env={**os.environ, "PYTHONPATH": _PATH},
                capture_output=True,
                cwd="/",
                check=False,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return ""


class PrivilegedNode(Node):
    """A home that belongs to three users, and its daemon as root."""

    def __init__(self, *options: str) -> None:
        self.base = tempfile.mkdtemp(prefix="qmailpy-test-")
        os.chmod(self.base, 0o711)
        self.home = os.path.join(self.base, "long" * 25, "home")  # the sockets' names do not fit into an address
        self.output = os.path.join(self.base, "output")
        self.process = None
        self._printed = 0
        self.port = 0
        group = grp.getgrgid(_user(WORKER).pw_gid).gr_name
        self.made = self.qmailpy(
            *("init", self.home, "--hostname", "mail.example.org", "--domain", "example.org"),
            *("--user", WORKER, "--group", group, *options),
        )
        endpoint = "tcp:0:interface=127.0.0.1"
        self.set({"directory.endpoint": endpoint, "listener.smtp.endpoint": endpoint, "queue.segment_octets": 1 << 20})
        with open(self.path("etc", "qmailpy.toml"), "rb") as source:
            names = [one["name"] for one in tomllib.load(source)["listener"]]
        others = [name for name in names if name not in ("smtp", "inject")]
        self.set({f"listener.{name}.endpoint": f"unix:run/{name}.sock" for name in others})

    def launch(self, prepare: Callable[[], None] | None = None) -> None:
        self._printed = os.path.getsize(self.output) if os.path.exists(self.output) else 0
        twistd = "from twisted.scripts.twistd import run; run()"
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                [_python(), "-P", "-c", twistd, "-n", "--pidfile=", "qmailpy", "--home", self.home],
                env={**os.environ, "PYTHONPATH": _PATH},
                cwd=self.base,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=prepare,
            )

    def as_user(self, name: str, script: str) -> str:
        """What a Python with a user's rights prints; C{home} is defined in it."""
        who = pwd.getpwnam(name)
        done = subprocess.run(
            [_python(), "-P", "-c", f"import os, socket\nhome = {self.home!r}\n{script}"],
            user=who.pw_uid,
            group=pwd.getpwnam(WORKER).pw_gid if name != STRANGER else who.pw_gid,
            extra_groups=[],
            env={**os.environ, "PYTHONPATH": _PATH},
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
        if done.returncode:
            raise AssertionError(done.stderr)
        return done.stdout

    def refused(self, name: str, *paths: str) -> list[str]:
        """Those of some paths below HOME that a user can neither open nor connect to."""
        script = f"""
from qmailpy.control.client import short_path
for path in {paths!r}:
    try:
        if path.endswith(".sock"):
            with short_path(home + "/" + path) as name:
                socket.socket(socket.AF_UNIX).connect(name)
        else:
            os.close(os.open(home + "/" + path, os.O_RDONLY))
    except PermissionError:
        print(path)
"""
        return self.as_user(name, script).split()

    def owners(self, folder: str) -> dict[str, int]:
        """User numbers by name, of what lies in a directory."""
        return {name: os.lstat(self.path(folder, name)).st_uid for name in os.listdir(self.path(folder))}

    def rcpt(self, address: str) -> str:
        """The reply to a recipient."""
        with self.talk() as talk:
            talk.say("MAIL FROM:<a@client.example>")
            return talk.say(f"RCPT TO:<{address}>")


def certificate(node: PrivilegedNode) -> str:
    """Whose certificate the SMTP listener shows behind STARTTLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP("127.0.0.1", node.port, "client.example.net", timeout=20) as smtp:
        smtp.starttls(context=context)
        assert isinstance(smtp.sock, ssl.SSLSocket)
        found = x509.load_der_x509_certificate(smtp.sock.getpeercert(binary_form=True) or b"")
        return str(found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


class RightsCase(SynchronousTestCase):
    timeout = 60

    def setUp(self) -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root can start processes as other users")
        self.worker, self.directory = _user(WORKER).pw_uid, _user(DIRECTORY).pw_uid
        _user(STRANGER)
        if not _python():
            raise SkipTest(f"user {WORKER} may not run this checkout, or has no Python for it")

    def node(self, *options: str) -> PrivilegedNode:
        node = PrivilegedNode(*options)
        self.addCleanup(node.clean_up)
        return node

    def ids(self, pid: int) -> tuple[set[int], set[int]]:
        """All user and all group numbers of a process."""
        with open(f"/proc/{pid}/status") as source:
            found = {line.split(":")[0]: line.split()[1:] for line in source}
        return {int(one) for one in found["Uid"]}, {int(one) for one in (*found["Gid"], *found["Groups"])}


class Apart(RightsCase):
    """A user for the mail workers, another for the directory."""

    def test_a_program_told_of_events_is_the_workers_users(self) -> None:
        """Also where the supervisor, which is root's, tells it; and where root tries it."""
        node = self.node()
        script = 'grep -E "^(Uid|Gid|Groups)" /proc/$$/status >>"$QMAILPY_HOME/log/$QMAILPY_EVENT"; id -u'
        node.set({"events.command": ["/bin/sh", "-c", script]})
        node.start()
        os.kill(node.pid("mta-0"), signal.SIGKILL)
        told = node.path("log", "worker.restarted")
        until(lambda: os.path.exists(told) and "Groups" in open(told).read(), 20)  # noqa: SIM115
        with open(told) as source:
            found = {line.split(":")[0]: {int(one) for one in line.split()[1:]} for line in source}
        group = pwd.getpwnam(WORKER).pw_gid
        self.assertEqual(found, {"Uid": {self.worker}, "Gid": {group}, "Groups": set()})
        self.assertTrue(node.qmailpy("test", "event").startswith(f"{self.worker}\n"))

    def test_who_parses_mail_cannot_read_passwords_or_keys(self) -> None:
        """
        No process that parses mail from the network can read password hashes or private keys; nor can the directory
        read mail; nor anybody else anything. All that while mail for users of the directory is taken.
        """
        node = self.node("--directory-user", DIRECTORY)
        self.assertEqual(node.qmailpy("check").count("is good"), 1)
        node.qmailpy("user", "add", "alice@example.org")
        node.start()
        self.assertIn(f"the mail workers run as user {WORKER}, the directory as {DIRECTORY}", node.printed())
        for name, uid in (("mta-0", self.worker), ("directory-0", self.directory)):
            uids, gids = self.ids(node.pid(name))
            self.assertEqual(uids, {uid}, name)
            self.assertNotIn(0, gids, name)
        self.assertEqual(node.rcpt("alice@example.org")[:3], "250")
        self.assertEqual(node.rcpt("nobody-such@example.org")[:9], "550 5.1.1")

        secret = ("directory", "directory/directory.sqlite", "directory/service.secret", "directory/admin.secret")
        keys = ("tls", "tls/key.pem")
        mail = ("queue", "mail", "run/control", "run/control/mta-0.sock", "run/control/directory-0.sock")
        ours = ("run/ldap.sock",)
        self.assertEqual(node.refused(WORKER, *secret, *keys, *mail, *ours), [*secret, *keys])
        self.assertEqual(node.refused(DIRECTORY, *secret, *keys, *mail, *ours), [*keys, *mail, *ours])
        self.assertEqual(node.refused(STRANGER, *secret, *keys, *mail, *ours), [*secret, *keys, *mail, *ours])
        self.assertEqual(node.refused(STRANGER, "run/inject.sock", "etc/qmailpy.toml"), [])
        self.assertEqual(certificate(node), "mail.example.org")  # the supervisor has handed it out
        new, key = self_signed("new.example.org", datetime.datetime.now(datetime.UTC))
        for leaf, octets in (("cert.pem", new), ("key.pem", key)):
            with open(node.path("tls", leaf), "wb") as target:
                target.write(octets)
        assert node.process is not None
        node.process.send_signal(signal.SIGHUP)
        node.wait_for("mta-0 has the new configuration")
        self.assertEqual(certificate(node), "new.example.org")
        for name in (WORKER, DIRECTORY):
            moved = "os.rename(home + '/directory', home + '/x')", "open(home + '/etc/qmailpy.toml', 'a')"
            for script in (*moved, "open(home + '/etc/x', 'w')"):
                said = f"try:\n    {script}\nexcept PermissionError:\n    print('no')"
                self.assertEqual(node.as_user(name, said), "no\n", (name, script))
        with open(f"/proc/{node.pid()}/environ", "rb") as source, open(secret_path(node.home, "service"), "rb") as file:
            self.assertNotIn(file.read(), source.read())

        self.assertEqual(node.stop(), 0)
        self.assertEqual(os.listdir(node.path("run", "control")), [])
        self.assertNotIn("Traceback", node.printed())
        self.assertEqual(set(node.owners("directory").values()), {self.directory})

    def test_commands_of_root_keep_the_directory_usable(self) -> None:
        """SQLite's own files made by root would lock the directory process out; whether it runs or not."""
        node = self.node("--directory-user", DIRECTORY)
        node.qmailpy("user", "add", "alice@example.org", "--password-stdin", octets=b"secret of alice\n")
        self.assertEqual(set(node.owners("directory").values()), {self.directory})
        node.start()
        self.assertEqual(node.rcpt("bob@example.org")[:3], "550")
        node.qmailpy("user", "add", "bob@example.org")
        self.assertEqual(node.rcpt("bob@example.org")[:3], "250")
        self.assertIn("local", node.qmailpy("test", "rewrite", "bob@example.org"))
        self.assertEqual(set(node.owners("directory").values()), {self.directory})
        old = node.kill("directory-0")
        until(lambda: gone(old))
        node.qmailpy("alias", "add", "robert@example.org", "bob@example.org")
        self.assertEqual(node.rcpt("robert@example.org")[:3], "250")
        self.assertEqual(set(node.owners("directory").values()), {self.directory})

        os.makedirs(node.path("mail", "example.org", "old", "Maildir"))
        self.assertIn("holds mail of an earlier user", node.qmailpy("user", "add", "old@example.org", status=1))

        # Logs rolled by hand are opened anew by both users.
        path = node.path("log", "qmailpy.log")
        os.rename(path, path + ".1")
        assert node.process is not None
        node.process.send_signal(signal.SIGHUP)
        node.wait_for("has the new configuration", 2)
        self.assertEqual(node.stop(), 0)
        with open(path) as source:
            text = source.read()
        for name in ("qmailpy[", "mta-0[", "directory-0["):
            self.assertIn(name, text)
        self.assertEqual(os.stat(path).st_uid, self.worker)

    def test_a_home_with_wrong_owners_is_noticed(self) -> None:
        """By C{check}, with the commands that mend it; by the daemon, which does not start."""
        node = self.node("--directory-user", DIRECTORY)
        script = "from qmailpy.cli.main import run\nprint(run(['--home', home, 'user', 'list']))"
        said = node.as_user(WORKER, "import sys\nsys.stderr = sys.stdout\n" + script)
        self.assertEqual(said.splitlines()[-1], "1")
        self.assertIn("directory.sqlite: Permission denied; run this as root or as the directory's user", said)

        group = grp.getgrgid(_user(WORKER).pw_gid).gr_name
        os.chown(node.home, self.worker, -1)
        os.chown(node.path("directory", "directory.sqlite"), 0, 0)
        os.chmod(node.path("tls"), 0o755)
        os.chown(node.path("mail"), self.directory, -1)
        said = node.qmailpy("check", status=1)
        for right in (
            f"chown root:root {node.home}\n",
            f"chown -R {DIRECTORY}:{group} {node.home}/directory\n",
            f"chmod 700 {node.home}/tls\n",
            f"chown -R {WORKER}:{group} {node.home}/mail\n",
        ):
            self.assertIn(right, said)
            subprocess.run(right.split(), check=True)
        self.assertIn("is good", node.qmailpy("check"))

        os.chown(node.path("directory"), pwd.getpwnam(STRANGER).pw_uid, -1)
        node.launch()
        assert node.process is not None
        self.assertEqual(node.process.wait(20), 1)
        self.assertIn(f"who serves it; right would be: chown -R {DIRECTORY}:", node.printed())
        self.assertEqual(len(node.printed().splitlines()), 1)


class Together(RightsCase):
    """Where the directory has no user of its own, all is as it was, and the log says so."""

    def test_a_home_from_before_goes_on_with_one_user_until_its_directory_is_given_away(self) -> None:
        node = self.node("--directory-user", WORKER)
        node.set({"server.directory_user": DIRECTORY})
        node.qmailpy("user", "add", "alice@example.org")
        node.start()
        group = grp.getgrgid(_user(WORKER).pw_gid).gr_name
        right = f"chown -R {DIRECTORY}:{group} {node.home}/directory"
        self.assertIn("passwords are not kept from the mail workers", node.printed())
        self.assertIn(right, node.printed())
        self.assertEqual(
            {frozenset(self.ids(node.pid(one.name))[0]) for one in running(node.home)}, {frozenset({self.worker})}
        )
        self.assertEqual(node.rcpt("alice@example.org")[:3], "250")
        node.stop()
        subprocess.run(right.split(), check=True)
        node.start()
        self.assertIn(f"the directory as {DIRECTORY}", node.printed())
        self.assertEqual(node.rcpt("alice@example.org")[:3], "250")

    def test_one_process_for_everything_needs_a_directory_of_its_user(self) -> None:
        node = self.node("--directory-user", WORKER)
        node.set({"server.workers": 0, "server.directory_user": DIRECTORY})
        node.qmailpy("user", "add", "alice@example.org")
        node.start()
        self.assertIn("with workers = 0 everything is one process", node.printed())
        self.assertEqual(self.ids(node.pid())[0], {self.worker})
        self.assertEqual(node.rcpt("alice@example.org")[:3], "250")
        # Its keys were read while it was root, and are still there when it may not read them any more.
        self.assertEqual(certificate(node), "mail.example.org")
        assert node.process is not None
        node.process.send_signal(signal.SIGHUP)
        node.wait_for("the new configuration is in force")
        self.assertEqual(certificate(node), "mail.example.org")
        self.assertEqual(node.stop(), 0)
