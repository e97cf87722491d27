"""C{qmailpy init}: a home out of nothing, all of it or nothing."""

from __future__ import annotations

import datetime
import grp
import json
import os
import pwd
import stat
from unittest import mock

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli.certificate import examine_pair, self_signed
from qmailpy.cli.home import DIRECTORIES, Owners
from qmailpy.cli.init import MARKER, ascii_domain, make_home
from qmailpy.config.load import load
from qmailpy.config.template import HomeChoices
from qmailpy.disk.files import RealFiles
from qmailpy.disk.rights import Identity
from qmailpy.errors import CommandError
from tests.cli.running import invoke

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
CHOICES = HomeChoices(hostname="mx.example.org", domain="example.org", unprivileged=True)
ONE = Owners(Identity(1, 1), Identity(1, 1))


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


class InitTests(SynchronousTestCase):
    """The command."""

    def init(self, home: str, *more: str) -> tuple[int, str, str]:
        found = invoke("init", home, "--hostname", "mx.example.org", "--domain", "example.org", "--unprivileged", *more)
        return found.status, found.out, found.err

    def test_the_home_is_whole_and_passes_its_check(self) -> None:
        home = self.mktemp()
        status, out, err = self.init(home, "--relay", "127.0.0.1:2525", "--trust", "::1/128", "--trust", "10.0.0.0/8")
        self.assertEqual((status, err), (0, ""))
        config = load(home)
        self.assertEqual(config.channels["tcp_local"].relay, "127.0.0.1:2525")
        self.assertEqual(config.trust.networks, ("::1/128", "10.0.0.0/8"))
        self.assertEqual(config.server.domain, "example.org")
        self.assertEqual(config.server.user, pwd.getpwuid(os.geteuid()).pw_name)
        self.assertEqual(config.server.group, grp.getgrgid(os.getegid()).gr_name)
        for name in DIRECTORIES:
            self.assertEqual(mode(os.path.join(home, name)), 0o700, name)
        for name in ("tls/key.pem", "etc/qmailpy.toml", "run/counters", "directory/directory.sqlite"):
            self.assertEqual(mode(os.path.join(home, name)), 0o600, name)
        self.assertFalse(os.path.lexists(os.path.join(home, MARKER)))
        self.assertIn(f"twistd -n qmailpy --home {os.path.abspath(home)}", out)
        checked = invoke("--home", home, "check", "--json")
        self.assertEqual((checked.status, json.loads(checked.out)["errors"]), (0, []))
        self.assertEqual(json.loads(checked.out)["warnings"], [])

    def test_json_tells_the_password_that_is_in_the_directory(self) -> None:
        home = self.mktemp()
        status, out, _ = self.init(home, "--json")
        made = json.loads(out)
        self.assertEqual((status, made["postmaster"]), (0, "postmaster@example.org"))
        self.assertGreaterEqual(len(made["password"]), 12)
        self.assertEqual(made["listeners"]["smtp"], "tcp:10025:interface=127.0.0.1")
        listed = invoke("--home", home, "user", "list", "--json")
        self.assertIn("postmaster@example.org", listed.out)

    def test_nothing_is_overwritten(self) -> None:
        home = self.mktemp()
        self.assertEqual(self.init(home)[0], 0)
        with open(os.path.join(home, "etc", "qmailpy.toml"), "rb") as source:
            before = source.read()
        status, _, err = self.init(home)
        self.assertEqual(status, 1)
        self.assertIn("is a home already", err)
        with open(os.path.join(home, "etc", "qmailpy.toml"), "rb") as source:
            self.assertEqual(source.read(), before)

    def test_a_directory_with_something_in_it_is_refused(self) -> None:
        home = self.mktemp()
        os.makedirs(home)
        with open(os.path.join(home, "precious"), "w") as target:
            target.write("x")
        status, _, err = self.init(home)
        self.assertEqual((status, os.listdir(home)), (1, ["precious"]))
        self.assertIn("is not empty; choose another", err)
        self.assertIn("is no directory", self.init(os.path.join(home, "precious"))[2])

    def test_an_empty_directory_will_do(self) -> None:
        """As a mount point does, with what mkfs puts there."""
        home = self.mktemp()
        os.makedirs(os.path.join(home, "lost+found"))
        self.assertEqual(self.init(home)[0], 0)
        self.assertTrue(os.path.isdir(os.path.join(home, "lost+found")))

    def test_wrong_choices_are_refused_before_anything_is_made(self) -> None:
        home = self.mktemp()
        for more, said in (
            (["--relay", "host:port"], "relay"),
            (["--trust", "10.0.0.1/8"], "networks"),
            (["--hostname", "a b"], "hostname"),
            (["--domain", "x..y"], "domain"),
        ):
            status, _, err = self.init(home, *more)
            self.assertEqual(status, 1)
            self.assertIn(said, err)
            self.assertFalse(os.path.lexists(home))

    def test_names_may_be_written_in_any_script(self) -> None:
        self.assertEqual(ascii_domain("Bücher.Example."), "xn--bcher-kva.example.")
        self.assertEqual(ascii_domain("Mail.Example.ORG."), "mail.example.org")
        self.assertEqual(ascii_domain("a..ü"), "a..ü")


class MakeHomeTests(SynchronousTestCase):
    """L{make_home}."""

    def test_a_failure_at_any_step_leaves_nothing_behind(self) -> None:
        """The next try finds no obstacle."""
        for place in (
            "qmailpy.cli.certificate.self_signed",
            "qmailpy.directory.setup.create",
            "qmailpy.stats.counters.create",
            "qmailpy.cli.init.replace",
        ):
            for there in (False, True):
                home = os.path.abspath(self.mktemp())
                if there:
                    os.makedirs(home)
                with mock.patch(place, side_effect=OSError(28, "No space left on device", "/x")):
                    said = str(self.assertRaises(CommandError, make_home, home, CHOICES, None, NOW))
                self.assertEqual(said, "/x: No space left on device; nothing was made")
                self.assertEqual(os.path.lexists(home), there)
                self.assertEqual(os.listdir(home) if there else [], [])
        make_home(home, CHOICES, None, NOW)

    def test_what_a_killed_init_left_is_taken_away(self) -> None:
        home = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(home, "directory"))
        for name in (MARKER, "stray", "directory/directory.sqlite"):
            with open(os.path.join(home, name), "w") as target:
                target.write("half")
        make_home(home, CHOICES, None, NOW)
        self.assertEqual(load(home).server.hostname, "mx.example.org")
        self.assertNotIn("stray", os.listdir(home))

    def test_two_at_once_do_not_meet(self) -> None:
        home = os.path.abspath(self.mktemp())
        os.makedirs(home)
        files = RealFiles()
        lock = files.lock(os.path.join(home, MARKER))
        try:
            self.assertIn(
                "another qmailpy init", str(self.assertRaises(CommandError, make_home, home, CHOICES, None, NOW))
            )
        finally:
            files.close(lock)
        make_home(home, CHOICES, None, NOW)

    def test_the_default_home_has_its_configuration_elsewhere(self) -> None:
        """C{HOME/etc} is a link, so that everything else need not know."""
        home, etc = os.path.abspath(self.mktemp()), os.path.abspath(self.mktemp())
        made = make_home(home, CHOICES, None, NOW, etc)
        self.assertEqual(made.config_file, os.path.join(etc, "qmailpy.toml"))
        self.assertEqual(os.readlink(os.path.join(home, "etc")), etc)
        self.assertEqual(load(home).server.hostname, "mx.example.org")
        other = os.path.abspath(self.mktemp())
        said = str(self.assertRaises(CommandError, make_home, other, CHOICES, None, NOW, etc))
        self.assertIn("is there already", said)
        self.assertFalse(os.path.lexists(other))
        self.assertTrue(os.path.exists(made.config_file))

    def test_a_failure_leaves_nothing_elsewhere_either(self) -> None:
        for there in (False, True):
            home, etc = os.path.abspath(self.mktemp()), os.path.abspath(self.mktemp())
            if there:
                os.makedirs(etc)
            with mock.patch("os.chown", side_effect=PermissionError(1, "Operation not permitted")):
                self.assertRaises(CommandError, make_home, home, CHOICES, ONE, NOW, etc)
            self.assertFalse(os.path.lexists(home))
            self.assertEqual((os.path.lexists(etc), os.listdir(etc) if there else []), (there, []))

    def test_a_privileged_home_belongs_to_its_user_and_lets_others_send(self) -> None:
        home = os.path.abspath(self.mktemp())
        given: dict[str, tuple[int, int]] = {}

        def chown(path: str, uid: int, gid: int, *, follow_symlinks: bool = True) -> None:
            given[os.path.relpath(path, home)] = (uid, gid)

        choices = HomeChoices(hostname="mx.example.org", domain="example.org")
        with mock.patch("os.chown", chown):
            make_home(home, choices, Owners(Identity(4711, 815), Identity(4712, 815)), NOW)
        for name in ("queue", "queue/drop", "mail", "run/counters", "log"):
            self.assertEqual(given[name], (4711, 815), name)
        for name in ("directory", "directory/directory.sqlite", "directory/service.secret"):
            self.assertEqual(given[name], (4712, 815), name)
        for name in (".", "etc", "etc/qmailpy.toml", "tls", "tls/key.pem"):
            self.assertEqual(given[name], (os.geteuid(), 815), name)
        self.assertEqual((mode(home), mode(f"{home}/run"), mode(f"{home}/etc")), (0o711, 0o711, 0o755))
        self.assertEqual(
            [mode(f"{home}/{name}") for name in ("queue", "mail", "run/control", "directory", "tls")], [0o700] * 5
        )
        self.assertEqual((mode(f"{home}/tls/key.pem"), mode(f"{home}/etc/qmailpy.toml")), (0o600, 0o644))

    def test_root_without_the_user_is_told_how_to_make_it(self) -> None:
        home = self.mktemp()
        with mock.patch("os.geteuid", return_value=0):
            found = invoke("init", home, "--hostname", "a.b", "--domain", "b", "--user", "nobody-such")
        self.assertEqual(found.status, 1)
        self.assertIn("there is no system user nobody-such; make it with: adduser --system", found.err)
        self.assertFalse(os.path.lexists(home))

    def test_a_directory_user_that_was_asked_for_must_be_there(self) -> None:
        """The one that goes without saying need not; then all is the workers', and init says what would be better."""
        somebody = pwd.getpwuid(1).pw_name
        with mock.patch("os.geteuid", return_value=0):
            found = invoke(
                *("init", self.mktemp(), "--hostname", "a.b", "--domain", "b.c", "--user", somebody),
                *("--directory-user", "nobody-such"),
            )
        self.assertEqual(found.status, 1)
        self.assertIn("there is no system user nobody-such; make it with: adduser", found.err)
        home = self.mktemp()
        with (
            mock.patch("os.geteuid", return_value=0),
            mock.patch("os.chown"),
            mock.patch("qmailpy.cli.init.DIRECTORY_USER", "nobody-such"),
        ):
            found = invoke("init", home, "--hostname", "a.b", "--domain", "b.c", "--user", somebody)
        self.assertEqual((found.status, found.err), (0, ""))
        self.assertIn("passwords are not kept from the mail workers", found.out)
        self.assertIn(f"chown -R nobody-such:{somebody} ", found.out)


class CertificateTests(SynchronousTestCase):
    """L{self_signed} and L{examine_pair}."""

    def test_it_names_the_host_and_lasts_ten_years(self) -> None:
        certificate, key = self_signed("mx.example.org", NOW)
        found = x509.load_pem_x509_certificate(certificate)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["mx.example.org"])
        self.assertEqual(found.not_valid_after_utc.year, 2040)
        self.assertEqual(examine_pair(certificate, key, "MX.example.org", NOW), ([], []))

    def test_a_long_host_name_is_no_obstacle(self) -> None:
        """The common name takes 64 characters only."""
        host = ".".join(["x" * 60] * 3) + ".example"
        certificate, key = self_signed(host, NOW)
        self.assertEqual(examine_pair(certificate, key, host, NOW), ([], []))

    def test_what_does_not_fit_is_told(self) -> None:
        certificate, key = self_signed("mx.example.org", NOW)
        other = self_signed("mx.example.org", NOW)[1]
        later = NOW + datetime.timedelta(days=4000)
        self.assertIn("not that of the certificate", examine_pair(certificate, other, "mx.example.org", NOW)[0][0])
        self.assertIn("no PEM", examine_pair(b"x", key, "mx.example.org", NOW)[0][0])
        self.assertIn("no PEM", examine_pair(certificate, b"x", "mx.example.org", NOW)[0][0])
        self.assertIn("run out", examine_pair(certificate, key, "mx.example.org", later)[1][0])
        self.assertIn(
            "only from", examine_pair(certificate, key, "mx.example.org", NOW - later.resolution * 10**11)[1][0]
        )
        self.assertIn("not for b.example", examine_pair(certificate, key, "b.example", NOW)[1][0])
