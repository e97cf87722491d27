"""Locks, sockets, log, readiness: what the daemon takes hold of before it runs."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
import subprocess
import sys
import time
from unittest import mock

from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.instance import acquire, holders, make_run
from qmailpy.app.log import LogFile, line
from qmailpy.app.notify import from_environment
from qmailpy.app.privileges import Users, identity, raise_file_limit, users
from qmailpy.app.sockets import LDAP, OWN, Listening
from qmailpy.config.schema import Config, DirectoryConfig, ListenerConfig, ServerConfig
from qmailpy.disk.rights import Identity
from qmailpy.errors import CommandError, ConfigError


class Locks(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.mkdir(self.home)
        make_run(self.home, None)

    def test_a_second_daemon_is_refused_with_one_line(self) -> None:
        first = acquire(self.home)
        first.write_pid()
        error = self.assertRaises(CommandError, acquire, self.home)
        self.assertEqual(str(error), f"another qmailpy runs on {self.home} (process {os.getpid()})")
        os.close(first.lock)
        os.close(first.children_lock)
        second = acquire(self.home)  # a pid file left behind is no obstacle
        os.close(second.lock)
        os.close(second.children_lock)

    def test_children_left_behind_are_waited_for_and_then_killed(self) -> None:
        """The lock lives in the descriptor a child inherited, whatever became of its supervisor."""
        first = acquire(self.home)
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", "import time; time.sleep(60)"], pass_fds=[first.children_lock]
        )
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        os.close(first.lock)
        os.close(first.children_lock)
        path = os.path.join(self.home, "run", "children.lock")
        self.assertEqual(holders(path), [child.pid])
        slept = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            time.sleep(0.001)
            if child.poll() is None and sum(slept) > 60:
                raise AssertionError("not killed")

        second = acquire(self.home, sleep=sleep, clock=lambda: 10 * sum(slept))
        self.assertEqual(child.wait(), -9)
        self.assertGreater(sum(slept), 0.5)
        os.close(second.lock)
        os.close(second.children_lock)

    def test_a_link_in_place_of_the_lock_is_not_followed(self) -> None:
        """HOME/run belongs to the unprivileged user; the supervisor may be root."""
        elsewhere = os.path.join(self.home, "elsewhere")
        with open(elsewhere, "w"):
            pass
        os.symlink(elsewhere, os.path.join(self.home, "run", "lock"))
        self.assertRaises(CommandError, acquire, self.home)

    def test_a_missing_home_is_one_line(self) -> None:
        self.assertIn("/nowhere/run", str(self.assertRaises(CommandError, make_run, "/nowhere", None)))


class Sockets(SynchronousTestCase):
    def config(self, *endpoints: str, directory: str = "") -> Config:
        home = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(home, "run"))
        return Config(
            home=home,
            server=ServerConfig(hostname="mail.example.org"),
            directory=DirectoryConfig(endpoint=directory),
            listeners=tuple(
                ListenerConfig(name=f"l{n}", kind="smtp", endpoint=endpoint) for n, endpoint in enumerate(endpoints)
            ),
        )

    def test_sockets_listen_from_the_beginning(self) -> None:
        listening = Listening()
        self.addCleanup(listening.close)
        listening.open(self.config("tcp:0:interface=127.0.0.1", directory="tcp:0:interface=127.0.0.1"))
        self.assertEqual([*listening.of("directory")], [OWN, LDAP])
        (one,) = listening.of("mta")["l0"]
        self.assertFalse(one.getblocking())
        self.assertFalse(one.get_inheritable())
        socket.create_connection(one.getsockname(), 5).close()

    def test_all_interfaces_are_both_families(self) -> None:
        if not socket.has_dualstack_ipv6():
            return
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        listening = Listening()
        self.addCleanup(listening.close)
        listening.open(self.config(f"tcp:{port}"))
        self.assertEqual([one.family for one in listening.of("mta")["l0"]], [socket.AF_INET, socket.AF_INET6])
        socket.create_connection(("::1", port), 5).close()

    def test_a_unix_socket_has_its_mode_and_goes_at_the_end(self) -> None:
        config = self.config()
        path = f"/tmp/qmailpy-{os.getpid()}.sock"
        config = self.config(f"unix:{path}:mode=660")
        for _ in range(2):  # the second time over one a killed daemon left behind
            listening = Listening()
            listening.open(config)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o660)
            left = [os.dup(one.fileno()) for one in listening.of("mta")["l0"]]
            for handle in left:
                os.close(handle)
            listening._paths.clear()
            listening.close()
        listening = Listening()
        listening.open(config)
        listening.close()
        self.assertFalse(os.path.lexists(path))

    def test_a_file_that_is_no_socket_is_not_removed(self) -> None:
        path = f"/tmp/qmailpy-{os.getpid()}.txt"
        with open(path, "w") as out:
            out.write("precious")
        self.addCleanup(os.unlink, path)
        error = self.assertRaises(ConfigError, Listening().open, self.config(f"unix:{path}"))
        self.assertIn("no socket", error.problems[0])
        self.assertTrue(os.path.exists(path))

    def test_every_address_that_is_taken_is_named_and_nothing_stays_open(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            listening = Listening()
            error = self.assertRaises(
                ConfigError, listening.open, self.config(endpoint, "tcp:0:interface=127.0.0.1", "tcp:x", endpoint)
            )
        self.assertEqual(len(error.problems), 3)
        self.assertIn("Address already in use", error.problems[0])
        self.assertEqual(listening.of("mta"), {})


class Log(SynchronousTestCase):
    def event(self, **fields: object) -> dict[str, object]:
        return {"log_time": 1.5, "log_level": LogLevel.warn, "log_format": "from {who}", "who": "x", **fields}

    def test_a_peer_cannot_forge_a_line(self) -> None:
        text = line(self.event(who="a\r\n2026 info b\x1b[2J\0\u2028\x85"), "mta-0", 7)
        self.assertEqual(text.count("\n"), 1)
        self.assertTrue(text.isprintable() or text[:-1].isprintable(), text)
        self.assertIn(" warn mta-0[7] from a\\r\\n2026", text)

    def test_a_traceback_follows_indented(self) -> None:
        try:
            raise ValueError("bad\nline")
        except ValueError:
            failure = Failure()
        first, *trace = line(self.event(log_failure=failure), "mta-0", 7).splitlines()
        self.assertIn("from x", first)
        self.assertTrue(trace and all(part.startswith("    ") for part in trace))

    def test_a_moved_log_is_opened_anew(self) -> None:
        path = self.mktemp()
        log = LogFile(path, "mta-0")
        log(self.event(who="one"))
        os.rename(path, path + ".1")
        log(self.event(who="two"))
        log.reopen()
        log(self.event(who="three"))
        with open(path + ".1") as old, open(path) as new:
            self.assertEqual((len(old.readlines()), len(new.readlines())), (2, 1))

    def test_a_log_that_cannot_be_written_costs_nothing_but_lines(self) -> None:
        log = LogFile(self.mktemp(), "mta-0")
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, log._handle)
        log(self.event())

    def test_a_link_or_a_second_name_is_refused(self) -> None:
        """HOME/log belongs to the unprivileged user; root must not write elsewhere."""
        path, target = self.mktemp(), os.path.abspath(self.mktemp())
        with open(target, "w"):
            pass
        os.symlink(target, path)
        self.assertRaises(OSError, LogFile, path, "qmailpy")
        os.unlink(path)
        os.link(target, path)
        self.assertRaises(OSError, LogFile, path, "qmailpy")


class Notices(SynchronousTestCase):
    def test_the_service_manager_is_told_in_one_datagram(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            name = f"\0qmailpy-test-{os.getpid()}"
            manager.bind(name)
            manager.settimeout(5)
            environment = {"NOTIFY_SOCKET": "@" + name[1:], "WATCHDOG_USEC": "3000000", "PATH": "/bin"}
            notifier = from_environment(environment)
            notifier.tell("READY=1", "STATUS=fine")
            self.assertEqual(manager.recv(100), b"READY=1\nSTATUS=fine")
            self.assertEqual(notifier.watchdog_s, 3.0)
        self.assertEqual(environment, {"PATH": "/bin"}, "children must not speak for us")
        notifier.tell("STOPPING=1")  # nobody there any more

    def test_without_a_manager_nothing_happens(self) -> None:
        notifier = from_environment({"WATCHDOG_USEC": "3000000"})
        notifier.tell("READY=1")
        self.assertEqual(notifier.watchdog_s, 0.0)

    def test_another_process_s_watchdog_is_not_ours(self) -> None:
        environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}
        self.assertEqual(from_environment(environment, pid=2).watchdog_s, 0.0)


class Privileges(SynchronousTestCase):
    def test_a_user_that_does_not_exist_is_named_with_the_remedy(self) -> None:
        self.patch(os, "geteuid", lambda: 0)
        server = ServerConfig(hostname="m", user="no-such-user", group="no-such-group")
        error = self.assertRaises(ConfigError, identity, server)
        self.assertIn("useradd", error.problems[0])
        self.assertIn("groupadd", error.problems[1])

    def test_without_root_nobody_changes(self) -> None:
        self.patch(os, "geteuid", lambda: 1000)
        self.assertIsNone(identity(ServerConfig(hostname="m", user="no-such-user")))

    def test_root_as_the_configured_user_stays_root(self) -> None:
        self.patch(os, "geteuid", lambda: 0)
        self.assertIsNone(identity(ServerConfig(hostname="m", user="root", group="root")))

    def users(self, **server: object) -> Users:
        """Of a root that runs qmailpy as user 1, with a directory that belongs to C{self.keeper}."""
        self.patch(os, "geteuid", lambda: 0)
        one = pwd.getpwuid(1)
        config = Config(
            home="/nowhere",
            server=ServerConfig(hostname="m", user=one.pw_name, group=grp.getgrgid(one.pw_gid).gr_name, **server),  # type: ignore[arg-type]
        )
        with mock.patch("os.stat", return_value=mock.Mock(st_uid=self.keeper)):
            return users(config)

    keeper = 2

    def test_the_directory_has_a_user_of_its_own_in_the_workers_group(self) -> None:
        found = self.users(directory_user=pwd.getpwuid(2).pw_name)
        group = pwd.getpwuid(1).pw_gid
        self.assertEqual((found.of("mta"), found.of("directory")), (Identity(1, group), Identity(2, group)))
        self.assertTrue(found.apart)
        self.assertIn(f"the directory as {pwd.getpwuid(2).pw_name}", found.word)

    def test_where_that_cannot_be_had_there_is_one_user_and_a_word_why(self) -> None:
        self.keeper = 1
        for server, why in (
            ({"directory_user": "no-such-user"}, "there is no user no-such-user; stop qmailpy, then: useradd --system"),
            ({"directory_user": ""}, "directory_user is the same"),
            ({"directory_user": pwd.getpwuid(1).pw_name}, "directory_user is the same"),
            ({"directory_user": "root"}, "root is no user of its own"),
            ({"directory_user": pwd.getpwuid(2).pw_name, "workers": 0}, "everything is one process"),
            ({"directory_user": pwd.getpwuid(2).pw_name}, "chown -R"),
        ):
            found = self.users(**server)
            self.assertEqual((found.directory, found.apart), (found.workers, False), server)
            self.assertIn(why, found.word)
            self.assertIn("passwords are not kept from the mail workers", found.word)

    def test_a_directory_of_somebody_else_is_refused_with_the_remedy(self) -> None:
        self.keeper = 2
        error = self.assertRaises(CommandError, self.users, directory_user="no-such-user")
        self.assertIn(f"belongs to user 2 and not to {pwd.getpwuid(1).pw_name}", str(error))
        self.keeper = 3
        error = self.assertRaises(CommandError, self.users, directory_user=pwd.getpwuid(2).pw_name)
        self.assertIn(f"right would be: chown -R {pwd.getpwuid(2).pw_name}:", str(error))

    def test_without_root_one_user_runs_all(self) -> None:
        self.patch(os, "geteuid", lambda: 1000)
        found = users(Config(home="/nowhere", server=ServerConfig(hostname="m")))
        self.assertEqual((found.workers, found.directory, found.apart), (None, None, False))
        self.assertIn("all processes run as user 1000", found.word)

    def test_the_file_limit_is_the_hard_one(self) -> None:
        import resource

        self.assertEqual(raise_file_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
