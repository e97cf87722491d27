"""What surrounds the program: the plugin after an install, the unit file, the bootstrap of a bare clone."""

from __future__ import annotations

import configparser
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import ServerConfig

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

FIND = """
import sys
sys.path[:0] = {paths!r}
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
import qmailpy
(found,) = [one for one in getPlugins(IServiceMaker) if one.tapname == "qmailpy"]
print(qmailpy.__file__, found.options.__name__, found.makeService.__module__)
"""


class Plugin(SynchronousTestCase):
    def found(self, *paths: str) -> str:
        """What Twisted finds on these paths alone (-S: the .pth file of this checkout is not read)."""
        command = [sys.executable, "-S", "-I", "-B", "-c", FIND.format(paths=list(paths))]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def test_it_is_found_after_a_plain_install(self) -> None:
        source, target = os.path.abspath(self.mktemp()), os.path.abspath(self.mktemp())
        os.mkdir(source)
        for name in ("qmailpy", "twisted"):
            shutil.copytree(os.path.join(ROOT, name), os.path.join(source, name))
        for name in ("setup.cfg", "pyproject.toml", "README.md"):
            if os.path.exists(os.path.join(ROOT, name)):
                shutil.copy(os.path.join(ROOT, name), source)
        pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "install", "--no-index"]
        pip += ["--no-deps", "--no-build-isolation", "--no-compile", "--target", target, source]
        subprocess.run(pip, check=True, capture_output=True, timeout=60)
        self.assertEqual(os.listdir(os.path.join(target, "twisted")), ["plugins"], "Twisted's own stays untouched")
        self.assertNotIn("__init__.py", os.listdir(os.path.join(target, "twisted", "plugins")))
        packages = sysconfig.get_path("purelib")
        self.assertEqual(self.found(packages, target), f"{target}/qmailpy/__init__.py Options qmailpy.app.tap\n")

    def test_it_is_found_in_a_checkout(self) -> None:
        packages = sysconfig.get_path("purelib")
        self.assertEqual(self.found(packages, ROOT), f"{ROOT}/qmailpy/__init__.py Options qmailpy.app.tap\n")


class Unit(SynchronousTestCase):
    def text(self) -> str:
        with open(os.path.join(ROOT, "etc", "qmailpy.service")) as source:
            return source.read()

    def test_it_says_what_the_daemon_does(self) -> None:
        unit = configparser.ConfigParser(interpolation=None, strict=True)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read_string(self.text())
        service = unit["Service"]
        self.assertEqual(
            (service["Type"], service["NoNewPrivileges"], service["ProtectSystem"]), ("notify", "yes", "strict")
        )
        self.assertIn("twistd -n qmailpy --home /var/lib/qmailpy", service["ExecStart"])
        self.assertEqual(service["ExecReload"], "/bin/kill -HUP $MAINPID")
        self.assertGreater(int(service["TimeoutStopSec"]), 20 + 10, "longer than the drain limit")

    def test_systemd_takes_it(self) -> None:
        """Only where systemd is installed; elsewhere the test above is all there is."""
        if shutil.which("systemd-analyze") is None:
            return
        path = os.path.abspath(self.mktemp()) + ".service"
        with open(path, "w") as out:
            out.write(self.text().replace("/opt/qmailpy/bin/twistd", "/bin/true"))
        done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
        own = [line for line in done.stderr.splitlines() if os.path.basename(path) in line]
        self.assertEqual(own, [])


class Users(SynchronousTestCase):
    """etc/qmailpy.sysusers."""

    def test_it_makes_the_users_of_the_template(self) -> None:
        with open(os.path.join(ROOT, "etc", "qmailpy.sysusers")) as source:
            lines = [line.split(None, 3) for line in source if line.strip() and not line.startswith("#")]
        server = ServerConfig(hostname="m")
        self.assertEqual([line[:3] for line in lines], [["u", server.user, "-"], ["u", server.directory_user, "-"]])

    def test_systemd_takes_it(self) -> None:
        """Only where it can be tried without making anybody."""
        tool = shutil.which("systemd-sysusers")
        if tool is None:
            return
        command = [tool, "--dry-run", os.path.join(ROOT, "etc", "qmailpy.sysusers")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(
            (done.returncode, [line for line in done.stderr.splitlines() if ".sysusers:" in line]), (0, [])
        )


class Bootstrap(SynchronousTestCase):
    """scripts/bootstrap.sh with programs made of paper, so that nothing is installed."""

    def setUp(self) -> None:
        self.clone = os.path.abspath(self.mktemp())
        self.bin = os.path.join(self.clone, "bin")
        os.makedirs(os.path.join(self.clone, "scripts"))
        os.mkdir(self.bin)
        for name in ("setup.cfg", "pyproject.toml", "scripts/bootstrap.sh"):
            shutil.copy(os.path.join(ROOT, name), os.path.join(self.clone, name))
        for name in ("sh", "cat", "sha256sum", "cut", "dirname", "sort", "tr", "awk"):
            os.symlink(str(shutil.which(name)), os.path.join(self.bin, name))

    def paper(self, name: str, script: str) -> None:
        path = os.path.join(self.bin, name)
        with open(path, "w") as out:
            out.write(f"#!/bin/sh\n{script}\n")
        os.chmod(path, 0o755)

    def stamp(self, goal: str) -> None:
        """As if it had been run before."""
        state = hashlib.sha256()
        for name in ("setup.cfg", "pyproject.toml", "scripts/bootstrap.sh"):
            with open(os.path.join(self.clone, name), "rb") as source:
                state.update(source.read())
        os.makedirs(os.path.join(self.clone, ".venv", "bin"))
        os.symlink(os.path.join(self.bin, "python3"), os.path.join(self.clone, ".venv", "bin", "python"))
        with open(os.path.join(self.clone, ".venv", f".qmailpy-{goal}"), "w") as out:
            out.write(state.hexdigest() + "\n")

    def run_it(self, goal: str) -> tuple[int, str]:
        # The script adds /usr/sbin itself; in the paper world that must not lead out of it.
        path = os.path.join(self.clone, "scripts", "bootstrap.sh")
        with open(path) as source:
            text = source.read().replace("PATH=$PATH:/usr/sbin:/sbin", ":")
        done = subprocess.run(
            ["/bin/sh", "-s", goal],
            input=text.replace('cd "$(dirname "$0")/.."', ":"),
            env={"PATH": self.bin},
            cwd=self.clone,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr + done.stdout

    def test_without_python_the_apt_line_is_named(self) -> None:
        self.assertEqual(
            self.run_it("run"),
            (1, "bootstrap: there is no python3; install it with: apt-get install python3 python3-venv\n"),
        )

    def test_an_old_python_is_named(self) -> None:
        self.paper("python3", 'case "$*" in *version_info*) exit 1;; *) echo Python 3.9.2;; esac')
        status, said = self.run_it("run")
        self.assertEqual(status, 1)
        self.assertIn("Python 3.11 or later is needed, python3 is Python 3.9.2", said)

    def test_without_venv_the_apt_line_is_named(self) -> None:
        self.paper("python3", 'case "$*" in *ensurepip*) exit 1;; esac')
        status, said = self.run_it("run")
        self.assertEqual((status, said.count("\n")), (1, 1))
        self.assertIn("apt-get install python3-venv", said)

    def test_a_second_run_does_nothing(self) -> None:
        self.paper("python3", 'case "$*" in *install*) echo installing; exit 1;; esac')
        self.stamp("run")
        self.assertEqual(self.run_it("run"), (0, ""))

    def test_a_changed_setup_installs_anew_and_a_failure_fails(self) -> None:
        self.paper("python3", 'case "$*" in *install*) echo no network; exit 1;; esac')
        self.stamp("run")
        with open(os.path.join(self.clone, "setup.cfg"), "a") as out:
            out.write("\n")
        status, said = self.run_it("run")
        self.assertEqual(status, 1)
        self.assertIn("no network", said)
        self.assertIn("pip could not install", said)

    def test_missing_peers_are_named_when_not_root(self) -> None:
        self.paper("python3", "exit 0")
        self.stamp("test")
        for name in (
            "postfix",
            "smtp-sink",
            "swaks",
            "curl",
            "openssl",
            "gsasl",
            "perl",
            "dovecot",
            "fetchmail",
            "getmail",
        ):
            self.paper(name, "exit 0")
        self.paper("apt-get", "echo APT; exit 1")
        self.paper("id", "echo 1000")
        status, said = self.run_it("test")
        before, _, packages = said.partition("as root: apt-get install --no-install-recommends ")
        self.assertEqual((status, before), (1, "bootstrap: the tests need more programs; "))
        self.assertLessEqual({"ldap-utils", "slapd"}, set(packages.split()))
        self.assertTrue({"postfix", "swaks", "curl", "fetchmail"}.isdisjoint(packages.split()))

    def test_another_mail_server_is_not_thrown_out(self) -> None:
        self.paper("python3", "exit 0")
        self.stamp("test")
        self.paper("apt-get", "echo APT; exit 1")
        self.paper("id", "echo 0")
        self.paper("dpkg-query", "echo 'exim4-daemon-light mail-transport-agent, default-mta installed'")
        status, said = self.run_it("test")
        self.assertEqual(status, 1)
        self.assertIn("would replace exim4-daemon-light", said)
        self.assertNotIn("APT", said)
