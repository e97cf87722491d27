"""C{qmailpy check} and C{qmailpy config}."""

from __future__ import annotations

import datetime
import grp
import json
import os
import pwd
import shutil
import tomllib
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli import check
from qmailpy.cli.certificate import self_signed
from qmailpy.cli.home import Owners
from qmailpy.cli.init import make_home
from qmailpy.config.template import HomeChoices
from qmailpy.disk.rights import Identity
from tests.cli.running import Outcome, invoke

NOW = datetime.datetime.now(datetime.UTC)


class HomeCase(SynchronousTestCase):
    """With a home of its own."""

    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
        choices = HomeChoices(
            hostname="mx.example.org", domain="example.org", unprivileged=True, user=user, group=group
        )
        with mock.patch("qmailpy.directory.setup.create", return_value="x"):
            make_home(self.home, choices, None, NOW)
        self.file = os.path.join(self.home, "etc", "qmailpy.toml")

    def run_command(self, *arguments: str) -> Outcome:
        return invoke("--home", self.home, *arguments)

    def text(self) -> str:
        with open(self.file, encoding="utf-8") as source:
            return source.read()

    def change(self, old: str, new: str) -> None:
        text = self.text()
        self.assertIn(old, text)
        with open(self.file, "w", encoding="utf-8") as target:
            target.write(text.replace(old, new, 1))


class CheckTests(HomeCase):
    """C{qmailpy check}."""

    def setUp(self) -> None:
        super().setUp()
        os.makedirs(os.path.join(self.home, "directory"), exist_ok=True)

    def test_a_good_home_is_called_good(self) -> None:
        self.assertEqual(self.run_command("check"), Outcome(status=0, out=f"{self.file} is good\n", err=""))

    def test_what_external_ldap_servers_need(self) -> None:
        self.change("servers = []", 'servers = ["ldap://ldap.example.org", "ldap://127.0.0.1"]')
        self.assertIn("nothing without bind_dn", self.run_command("check").err)
        self.change('bind_dn = ""', 'bind_dn = "cn=service,o=qmailpy"')
        self.change('bind_password_file = ""', 'bind_password_file = "etc/ldap.secret"')
        self.change('starttls = "verify"', 'starttls = "none"')
        self.change('ca_file = "/etc/ssl/certs/ca-certificates.crt"', 'ca_file = "/nowhere.pem"')
        found = self.run_command("check")
        self.assertEqual(found.status, 1)
        self.assertIn("ldap.secret: No such file", found.err)
        self.assertIn("/nowhere.pem is missing", found.err)
        self.assertEqual(found.err.count("in the clear"), 1)
        secret = os.path.join(self.home, "etc", "ldap.secret")
        with open(secret, "w") as target:
            target.write("\nsecret\n")
        self.assertIn("its first line is no password", self.run_command("check").err)
        with open(secret, "w") as target:
            target.write("secret\n")
        os.chmod(secret, 0o644)
        found = self.run_command("check")
        self.assertIn(f"chmod o-rwx {secret}", found.err)
        self.assertNotIn("secret\n", found.err.replace(secret, ""))

    def test_programs_that_are_not_there_are_warned_of(self) -> None:
        self.change("command = []", 'command = ["/nowhere/alarm"]')
        with open(self.file, "a", encoding="utf-8") as target:
            target.write('[channel.fax]\nkind = "pipe"\ncommand = ["/nowhere/fax"]\n')
        found = self.run_command("check")
        self.assertEqual(found.status, 0)
        right = "cannot be run; right would be an executable file"
        self.assertIn(f"warning: {self.file}: [events] command: /nowhere/alarm {right}\n", found.err)
        self.assertIn(f"warning: {self.file}: [channel.fax] command: /nowhere/fax {right}\n", found.err)

    def test_authorities_that_must_be_there_and_are_not_are_errors(self) -> None:
        self.change('tls_ca_file = "/etc/ssl/certs/ca-certificates.crt"', 'tls_ca_file = "/nowhere.pem"')
        self.assertEqual(self.run_command("check").status, 0)
        with open(self.file, "a", encoding="utf-8") as target:
            target.write('[[destination]]\npattern = "bank.example"\nchannel = "tcp_local"\ntls = "verify"\n')
        found = self.run_command("check")
        self.assertEqual((found.status, found.err.count("\n")), (1, 1), found.err)
        self.assertIn("[channel.tcp_local] tls_ca_file: /nowhere.pem is missing", found.err)

    def test_a_relays_password_must_be_there_and_closed(self) -> None:
        """The daemon would not start without it."""
        self.change('relay = ""', 'relay = "h.example:587"')
        self.change('relay_user = ""', 'relay_user = "house"')
        self.change('relay_password_file = ""', 'relay_password_file = "etc/relay"')
        file = os.path.join(self.home, "etc", "relay")
        where = (
            f"{self.file}: [channel.tcp_local] relay_password_file: {file}: No such file or directory; right would be"
        )
        self.assertIn(where, self.run_command("check").err)
        for text, mode, said in (
            ("\n", 0o600, "no password"),
            ("secret\n", 0o644, f"right would be: chmod o-rwx {file}"),
        ):
            with open(file, "w") as target:
                target.write(text)
            os.chmod(file, mode)
            found = self.run_command("check")
            self.assertEqual((found.status, found.err.count("\n"), found.err.count("secret")), (1, 1, 0), found.err)
            self.assertIn(said, found.err)
        os.chmod(file, 0o600)
        self.assertEqual(self.run_command("check").status, 0)

    def test_every_error_is_a_line_and_the_status_is_1(self) -> None:
        self.change("workers = 1", "workers = -1")
        self.change("roll_s", "rol_s")
        found = self.run_command("check")
        self.assertEqual((found.status, found.out), (1, ""))
        lines = found.err.splitlines()
        self.assertEqual(len(lines), 2)
        self.assertRegex(
            lines[0], rf"^{self.file}:\d+: \[server\] workers: -1 is out of range; right would be 0 to 256$"
        )
        self.assertRegex(lines[1], r'\[queue\] rol_s: is not known; did you mean "roll_s"\?$')
        self.assertEqual(json.loads(self.run_command("check", "--json").out)["errors"], lines)

    def test_directories_that_cannot_be_used_are_errors(self) -> None:
        shutil.rmtree(os.path.join(self.home, "queue"))
        found = self.run_command("check")
        self.assertEqual(found.status, 1)
        self.assertIn(f"{self.home}/queue: is no directory", found.err)
        self.assertIn(f"{self.home}/queue/drop: is no directory", found.err)

    def test_a_directory_of_somebody_else_is_an_error(self) -> None:
        workers, directory = (Identity(os.geteuid() + n, 815) for n in (1, 2))
        user = pwd.getpwuid(os.geteuid()).pw_name
        with (
            mock.patch("os.geteuid", return_value=0),
            mock.patch("qmailpy.cli.check.owners", return_value=Owners(workers, directory)),
        ):
            found = self.run_command("check")
        self.assertEqual(found.status, 1)
        group = grp.getgrgid(os.getegid()).gr_name
        self.assertIn(f"not to {user}; right would be: chown -R {user}:{group} {self.home}/queue\n", found.err)
        right = f"chown -R qmailpy-dir:{group} {self.home}/directory"
        self.assertIn(f"not to qmailpy-dir; right would be: {right}\n", found.err)

    def test_what_is_open_to_others_is_an_error(self) -> None:
        """As root, of a home with users of its own; each error names the command that mends it."""
        me = Identity(os.geteuid(), os.getegid())
        bare = mock.Mock(of=lambda keeper: me, workers=mock.Mock(uid=4711), directory=me)
        for name, mode, right in (
            ("", 0o777, "711"),
            ("etc", 0o775, "755"),
            ("tls", 0o750, "700"),
            ("directory", 0o710, "700"),
            ("mail", 0o701, "700"),
            ("log", 0o770, "750"),
        ):
            folder = os.path.join(self.home, name) if name else self.home
            os.chmod(folder, mode)
            with (
                mock.patch("os.geteuid", return_value=0),
                mock.patch("qmailpy.cli.check.owners", return_value=bare),
            ):
                found = self.run_command("check")
            self.assertEqual(found.status, 1)
            self.assertIn(f"right would be: chmod {right} {folder}\n", found.err)
            self.assertEqual(found.err.count("right would be"), 1, found.err)
            os.chmod(folder, int(right, 8))

    def test_a_directory_without_a_user_of_its_own_is_a_warning(self) -> None:
        one = Identity(os.geteuid(), os.getegid())
        bare = mock.Mock(of=lambda keeper: one, workers=mock.Mock(uid=4711))
        bare.directory = bare.workers
        with mock.patch("os.geteuid", return_value=0), mock.patch("qmailpy.cli.check.owners", return_value=bare):
            found = self.run_command("check")
        self.assertEqual(found.status, 0)
        self.assertIn("warning: ", found.err)
        self.assertIn("[server] directory_user: passwords are not kept from the mail workers", found.err)

    def test_a_relay_that_the_channel_would_not_understand_is_an_error(self) -> None:
        """What the configuration's own check lets pass is still put to those who will use it."""
        self.change('relay = ""', 'relay = "relay.example.org"')
        self.assertEqual(self.run_command("check").status, 0)
        with mock.patch("qmailpy.remote.mx.destination", side_effect=ValueError("malformed port in 'x'")):
            found = self.run_command("check")
        self.assertEqual(found.status, 1)
        self.assertIn("[channel.tcp_local] relay: malformed port in 'x'; right would be", found.err)

    def test_rules_no_address_comes_to_and_circles_are_warnings_with_their_lines(self) -> None:
        """The rule of the template takes everything."""
        start = self.text().count("\n") + 1
        rules = (("relay.example", "tcp_local"), ("again.example", "reprocess"))
        with open(self.file, "a", encoding="utf-8") as target:
            target.writelines(f'[[rewrite]]\npattern = "{pattern}"\nchannel = "{name}"\n' for pattern, name in rules)
        found = self.run_command("check")
        self.assertEqual(found.status, 0, found.err)
        first = self.text().split("\n").index("[[rewrite]]") + 1
        why = f"no address comes here: rule 1 (., line {first}) has them all"
        for at, (pattern, _) in enumerate(rules):
            where = f"{self.file}:{start + 3 * at}: [[rewrite]] {2 + at} ({pattern})"
            self.assertIn(f"warning: {where}: {why}; right would be this rule before that one, or none\n", found.err)
        self.assertNotIn("goes round", found.err)
        self.change('[[rewrite]]\npattern = "."', '[[rewrite]]\npattern = "other.example"')
        found = self.run_command("check")
        why = "mail for user@again.example goes round: reprocess -> reprocess; right would be another address"
        self.assertIn(f"({rules[1][0]}): {why}", found.err)
        self.assertNotIn("no address comes here", found.err)

    def test_a_mistake_in_the_words_of_notices_is_an_error(self) -> None:
        os.mkdir(os.path.join(self.home, "etc/notices"))
        path = os.path.join(self.home, "etc/notices/en.txt")
        with open(path, "w") as target:
            target.write("[somewhere]\nbehind ${hostname}\n")
        found = self.run_command("check")
        self.assertEqual(found.status, 1)
        self.assertEqual(found.err, f"{path}:2: ${{hostname}} is no variable of [somewhere]; known are none\n")

    def test_a_directory_that_is_not_writable_is_an_error(self) -> None:
        with mock.patch("os.geteuid", return_value=1), mock.patch("os.access", return_value=False):
            self.assertIn("is not writable for you", self.run_command("check").err)

    def test_a_key_of_another_certificate_is_an_error_and_no_tls_a_warning(self) -> None:
        with open(os.path.join(self.home, "tls", "key.pem"), "wb") as target:
            target.write(self_signed("mx.example.org", NOW)[1])
        found = self.run_command("check")
        self.assertEqual(found.status, 1)
        self.assertIn("cert.pem: the key is not that of the certificate", found.err)
        os.unlink(os.path.join(self.home, "tls", "key.pem"))
        self.assertIn("key.pem: is missing; right would be the one that belongs to", self.run_command("check").err)
        os.unlink(os.path.join(self.home, "tls", "cert.pem"))
        found = self.run_command("check")
        self.assertEqual(found.status, 0)
        self.assertIn("warning: ", found.err)
        self.assertIn("there is no TLS without it", found.err)

    def test_certificates_for_further_names_are_looked_at(self) -> None:
        """Each by its name; one that cannot be used would keep all from being used."""
        folder = os.path.join(self.home, "tls", "www.example.org")
        os.mkdir(folder)
        self.assertIn(
            "cert.pem: is missing; right would be a certificate, or no directory", self.run_command("check").err
        )
        soon = NOW - datetime.timedelta(days=3652 - 10)
        for name, octets in zip(("cert.pem", "key.pem"), self_signed("mx.example.org", soon), strict=True):
            with open(os.path.join(folder, name), "wb") as target:
                target.write(octets)
        found = self.run_command("check")
        self.assertEqual(found.status, 0)
        self.assertIn(f"warning: {folder}/cert.pem: the certificate runs out on ", found.err)
        self.assertIn("cert.pem: the certificate is not for www.example.org, but for mx.example.org", found.err)

    def test_low_ports_and_bare_hostnames_are_warnings(self) -> None:
        self.change("tcp:10025:interface=127.0.0.1", "tcp:25")
        self.change('"mx.example.org"', '"mx"')
        self.patch(check, "first_free_port", lambda: 1024)  # containers often allow all
        with mock.patch("os.geteuid", return_value=1), mock.patch("os.access", return_value=True):
            found = self.run_command("check")
        self.assertEqual(found.status, 0)
        self.assertIn("[[listener]] smtp endpoint: port 25 needs root", found.err)
        self.assertIn('hostname "mx" has no domain', found.err)


class ConfigTests(HomeCase):
    """C{qmailpy config}."""

    def test_show_tells_everything_in_effect(self) -> None:
        self.change("jitter = 0.1\n", "")
        shown = tomllib.loads(self.run_command("config", "show").out)
        self.assertEqual(shown["channel"]["tcp_local"]["jitter"], 0.1)
        self.assertEqual(shown["channel"]["local"]["port"], 25)
        self.assertEqual(json.loads(self.run_command("config", "show", "--json").out), shown)

    def test_get_prints_values_so_that_a_script_can_use_them(self) -> None:
        for key, text, value in (
            ("server.hostname", "mx.example.org\n", "mx.example.org"),
            ("bounce.double_bounce", "true\n", True),
            ("trust.networks", "127.0.0.0/8\n::1/128\n", ["127.0.0.0/8", "::1/128"]),
            (
                "dns",
                "servers = []\ntrusted = false\ntimeout_s = 10.0\n",
                {"servers": [], "trusted": False, "timeout_s": 10.0},
            ),
        ):
            self.assertEqual(self.run_command("config", "get", key).out, text)
            self.assertEqual(json.loads(self.run_command("config", "get", key, "--json").out), value)

    def test_a_wrong_key_is_one_line(self) -> None:
        found = self.run_command("config", "get", "server.hostnam")
        self.assertEqual((found.status, found.err.count("\n")), (1, 1))
        self.assertIn('did you mean "hostname"?', found.err)

    def test_set_changes_one_line_keeps_the_mode_and_says_what_next(self) -> None:
        before = self.text().splitlines()
        os.chmod(self.file, 0o640)
        found = self.run_command("config", "set", "channel.tcp_local.relay", "h.example:26")
        self.assertEqual((found.status, found.err), (0, ""))
        self.assertIn("SIGHUP", found.out)
        self.assertEqual(set(self.text().splitlines()) - set(before), {'relay = "h.example:26"'})
        self.assertEqual(os.stat(self.file).st_mode & 0o777, 0o640)
        self.assertEqual(self.run_command("config", "get", "channel.tcp_local.relay").out, "h.example:26\n")
        told = json.loads(self.run_command("config", "set", "listener.smtp.name", "mx", "--json").out)
        self.assertEqual((told["old"], told["new"]), ("smtp", "mx"))

    def test_keys_that_need_each_other_are_set_in_one_go(self) -> None:
        relay, user, file = (f"channel.tcp_local.{key}" for key in ("relay", "relay_user", "relay_password_file"))
        self.assertIn("is nothing without", self.run_command("config", "set", user, "house").err)
        found = self.run_command("config", "set", relay, "h.example:587", user, "house", file, "etc/relay")
        self.assertEqual((found.status, found.err, found.out.count(" is set; ")), (0, "", 3))
        self.assertEqual(self.run_command("config", "get", user).out, "house\n")
        found = self.run_command("config", "set", user, "house", file)
        self.assertEqual((found.status, found.err.count("\n")), (2, 1), found.err)
        told = json.loads(self.run_command("config", "set", relay, "i.example", user, "us", "--json").out)
        self.assertEqual([one["new"] for one in told], ["i.example", "us"])

    def test_set_tells_when_a_reload_is_not_enough(self) -> None:
        """As the template does: restart, and not reload."""
        for key, value, needed in (
            ("server.workers", "2", True),
            ("monitor.endpoint", "tcp:10909:interface=127.0.0.1", True),
            ("listener.smtp.endpoint", "tcp:10026:interface=127.0.0.1", True),
            ("listener.smtp.errors", "10", False),
            ("queue.lifetime_s", "3600", False),
        ):
            out = self.run_command("config", "set", key, value).out
            self.assertEqual(("restart qmailpy" in out, "reload qmailpy" in out), (needed, not needed), out)

    def test_show_has_every_table_of_the_file(self) -> None:
        with open(self.file, "a", encoding="utf-8") as target:
            target.write('[[destination]]\npattern = "x.example"\n[[conversion]]\ndestination = "local"\n')
        shown = json.loads(self.run_command("config", "show", "--json").out)
        self.assertEqual([one["pattern"] for one in shown["destination"]], ["x.example"])
        self.assertEqual([one["destination"] for one in shown["conversion"]], ["local"])

    def test_set_refuses_what_would_be_wrong_and_changes_nothing(self) -> None:
        before = self.text()
        for key, value in (
            ("server.workers", "-1"),
            ("listener.smtp.channel", "nowhere"),
            ("server.nothing", "1"),
            ("queue", "1"),
        ):
            found = self.run_command("config", "set", key, value)
            self.assertEqual((found.status, found.err.count("\n")), (1, 1), found.err)
        self.assertIn("nothing was changed", self.run_command("config", "set", "server.workers", "-1").err)
        self.assertEqual(self.text(), before)
        self.assertEqual(sorted(os.listdir(os.path.dirname(self.file))), ["qmailpy.toml", "srs.secret"])

    def test_set_through_a_link_replaces_what_it_stands_for(self) -> None:
        """As C{HOME/etc} may be a link to /etc/qmailpy, and the file one into somebody's repository."""
        real, kept = os.path.abspath(self.mktemp()), os.path.abspath(self.mktemp())
        os.rename(os.path.join(self.home, "etc"), real)
        os.symlink(real, os.path.join(self.home, "etc"))
        os.rename(os.path.join(real, "qmailpy.toml"), kept)
        os.symlink(kept, os.path.join(real, "qmailpy.toml"))
        self.assertEqual(self.run_command("config", "set", "server.workers", "2").status, 0)
        self.assertTrue(os.path.islink(os.path.join(self.home, "etc")))
        self.assertTrue(os.path.islink(os.path.join(real, "qmailpy.toml")))
        self.assertEqual(self.run_command("config", "get", "server.workers").out, "2\n")
