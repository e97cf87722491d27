"""The real daemon with toy roles: births and deaths of processes, signals, the one instance a home."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.control import call, call_all, clear_counters, flush_directory, running
from qmailpy.control.client import short_path
from qmailpy.disk.rights import Identity
from qmailpy.errors import CommandError
from qmailpy.events.log import FILE_NAME, EventLog
from qmailpy.events.reading import thd_events
from tests.integration.daemon_process import ROOT, DaemonProcess, answer, configure, gone, read, until


class DaemonCase(SynchronousTestCase):
    def home(self, **settings: object) -> str:
        home: str = os.path.abspath(self.mktemp())
        os.makedirs(home)
        configure(home, **settings)  # type: ignore[arg-type]
        return home

    def daemon(self, home: str, **environment: str) -> DaemonProcess:
        daemon = DaemonProcess(home, **environment)
        self.addCleanup(daemon.clean_up)
        return daemon


class LifeAndDeath(DaemonCase):
    def test_it_serves_and_ends_with_status_0(self) -> None:
        """SIGTERM: workers first, then the directory; nothing stays in HOME/run that says it runs."""
        daemon = self.daemon(self.home()).ready()
        pid, connection = daemon.talk()
        connection.sendall(b"hello")
        self.assertEqual(connection.recv(10), b"hello")
        connection.close()
        self.assertNotEqual(pid, daemon.process.pid)
        self.assertEqual(read(daemon.home, "run", "qmailpy.pid"), f"{daemon.process.pid}\n")
        self.assertEqual([one.name for one in running(daemon.home)], ["directory-0", "mta-0"])
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.end(), 0, daemon.output)
        text = daemon.output.decode()
        self.assertLess(text.index("mta-0 ended: exit status 0"), text.index("directory-0 ended: exit status 0"))
        self.assertEqual(sorted(os.listdir(os.path.join(daemon.home, "run"))), ["children.lock", "control", "lock"])
        self.assertEqual(os.listdir(os.path.join(daemon.home, "run", "control")), [])
        self.assertNotIn("Traceback", text)
        log = read(daemon.home, "log", "qmailpy.log")
        for name in ("qmailpy[", "mta-0[", "directory-0["):
            self.assertIn(name, log)
        self.assertTrue(gone(pid))

    def test_a_worker_killed_is_back_within_a_second(self) -> None:
        """A client that connects meanwhile waits and is served; the session says that it was no reboot."""
        daemon = self.daemon(self.home()).ready()
        before = daemon.status()
        port = call(daemon.home, "mta-0", "test.port")
        assert isinstance(port, int)
        old = daemon.pid()
        os.kill(old, signal.SIGKILL)
        start = time.monotonic()
        until(lambda: gone(old))
        pid, connection = answer(port)
        took = time.monotonic() - start
        connection.close()
        self.assertNotEqual(pid, old)
        self.assertLess(took, 1.0)
        daemon.wait_for("mta-0 is ready", 2)
        self.assertEqual(daemon.status()["session"], before["session"])
        self.assertIn("mta-0 died: signal 9", daemon.output.decode())

    def test_two_workers_share_the_listener_and_one_alone_goes_on(self) -> None:
        daemon = self.daemon(self.home(workers=2)).ready()
        port = call(daemon.home, "mta-0", "test.port")
        assert isinstance(port, int)
        self.assertEqual((daemon.status("mta-0")["shards"], daemon.status("mta-1")["shards"]), (["0"], ["1"]))
        victim = daemon.pid("mta-1")
        os.kill(victim, signal.SIGSTOP)  # neither dead nor serving: connections must go to the other one
        try:
            pid, connection = answer(port)
            connection.close()
            self.assertEqual(pid, daemon.pid("mta-0"))
        finally:
            os.kill(victim, signal.SIGKILL)

    def test_an_uncaught_signal_in_the_background_of_a_terminal_is_not_for_children(self) -> None:
        """Ctrl-C reaches the terminal's process group: the supervisor alone must act on it."""
        daemon = self.daemon(self.home()).ready()
        self.assertNotEqual(os.getpgid(daemon.pid()), os.getpgid(daemon.process.pid))
        daemon.signal(signal.SIGINT)
        self.assertEqual(daemon.end(), 0, daemon.output)

    def test_a_killed_supervisor_takes_its_children_along_and_another_takes_over(self) -> None:
        daemon = self.daemon(self.home()).ready()
        children = [daemon.pid("mta-0"), daemon.pid("directory-0")]
        first = daemon.status()["session"]
        daemon.signal(signal.SIGKILL)
        daemon.process.wait()
        second = self.daemon(daemon.home).ready()
        self.assertEqual([gone(pid) for pid in children], [True, True])
        self.assertNotEqual(second.status()["session"], first)
        second.signal(signal.SIGTERM)
        self.assertEqual(second.end(), 0)

    def test_children_of_a_killed_supervisor_do_not_outlive_their_work(self) -> None:
        """Even one that would drain for a minute: its successor waits for the shard."""
        daemon = self.daemon(self.home()).ready()
        child = daemon.pid()
        call(daemon.home, "mta-0", "test.linger", seconds=60.0)
        daemon.signal(signal.SIGKILL)
        daemon.process.wait()
        self.assertLess(until(lambda: gone(child)), 4.0)

    def test_draining_has_a_limit(self) -> None:
        daemon = self.daemon(self.home(drain_s=0.3)).ready()
        call(daemon.home, "mta-0", "test.linger", seconds=60.0)
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.end(5.0), 0, daemon.output)
        self.assertIn(b"mta-0 did not end in time: killed", daemon.output)

    def test_a_second_signal_cuts_the_draining_short(self) -> None:
        daemon = self.daemon(self.home()).ready()
        call(daemon.home, "mta-0", "test.linger", seconds=60.0)
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("qmailpy stops")
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.end(5.0), 0, daemon.output)

    def test_clients_are_refused_while_it_drains(self) -> None:
        daemon = self.daemon(self.home()).ready()
        port = call(daemon.home, "mta-0", "test.port")
        assert isinstance(port, int)
        call(daemon.home, "mta-0", "test.linger", seconds=60.0)
        daemon.signal(signal.SIGTERM)
        daemon.wait_for(f"(TCP Port {port} Closed)")

        def refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
            except ConnectionRefusedError:
                return True
            return False

        until(refused, 2)  # the line is written just before the socket is closed
        daemon.signal(signal.SIGTERM)
        daemon.end()

    def test_the_whole_daemon_can_be_stopped_by_control(self) -> None:
        daemon = self.daemon(self.home()).ready()
        call(daemon.home, "mta-0", "stop")
        self.assertEqual(daemon.end(), 0, daemon.output)


class OneInstance(DaemonCase):
    def test_a_second_daemon_on_the_same_home_is_refused(self) -> None:
        daemon = self.daemon(self.home()).ready()
        second = self.daemon(daemon.home)
        self.assertEqual(second.end(), 1)
        expected = f"qmailpy: another qmailpy runs on {daemon.home} (process {daemon.process.pid})\n"
        self.assertEqual(second.output.decode(), expected)
        self.assertFalse(gone(daemon.pid()))

    def test_a_bad_configuration_is_one_line_a_problem(self) -> None:
        home = self.home(extra="\n[queue]\nsegments = 'x'\ncolour = 1\n")
        daemon = self.daemon(home)
        self.assertEqual(daemon.end(), 1)
        lines = daemon.output.decode().splitlines()
        self.assertEqual(len(lines), 2, lines)
        self.assertTrue(all("qmailpy.toml:" in line for line in lines), lines)

    def test_a_relays_password_that_is_not_there_is_one_line(self) -> None:
        """No worker could take its queue up; it would die again and again."""
        table = 'pattern = "x.example"\nuser = "u"\npassword_file = "etc/nothing"\n'
        daemon = self.daemon(self.home(extra=f"\n[[destination]]\n{table}"))
        self.assertEqual(daemon.end(), 1)
        self.assertRegex(
            daemon.output, rb"^/.*toml: \[\[destination\]\] x.example password_file: .*; right would be .*\n$"
        )

    def test_a_port_that_is_taken_is_one_line(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            daemon = self.daemon(self.home(endpoint=f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"))
            self.assertEqual(daemon.end(), 1)
        self.assertEqual(len(daemon.output.splitlines()), 1)
        self.assertIn(b"Address already in use", daemon.output)

    def test_in_the_background_it_has_its_pid_file_and_log(self) -> None:
        home = self.home()
        command = [os.path.join(os.path.dirname(sys.executable), "twistd"), "qmailpy", "--home", home]
        command += ["--roles", "tests.integration.daemon_roles"]
        environment = {**os.environ, "PYTHONPATH": ROOT}
        done = subprocess.run(command, env=environment, cwd=home, capture_output=True, timeout=15, check=False)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))
        with open(os.path.join(home, "run", "qmailpy.pid")) as source:
            pid = int(source.read())
        try:
            until(lambda: len(running(home)) == 2)
            self.assertEqual(os.listdir(home).count("twistd.pid") + os.listdir(home).count("twistd.log"), 0)
        finally:
            os.kill(pid, signal.SIGTERM)
        until(lambda: gone(pid))
        with open(os.path.join(home, "log", "qmailpy.log")) as log:
            self.assertIn("qmailpy has stopped", log.read())


class Reload(DaemonCase):
    def drain_s(self, daemon: DaemonProcess) -> object:
        return call(daemon.home, "mta-0", "test.drain_s")

    def test_a_good_configuration_reaches_the_running_processes(self) -> None:
        daemon = self.daemon(self.home()).ready()
        pid = daemon.pid()
        configure(daemon.home, drain_s=7.0, workers=2)
        daemon.signal(signal.SIGHUP)
        text = daemon.wait_for("has the new configuration", 2)
        self.assertEqual(self.drain_s(daemon), 7.0)
        self.assertEqual(daemon.pid(), pid)
        self.assertIn("[server] workers has changed: this needs a restart", text)

    def test_a_bad_configuration_is_refused_and_the_old_one_stays(self) -> None:
        """Also for a worker that is restarted after the bad edit."""
        daemon = self.daemon(self.home()).ready()
        configure(daemon.home, drain_s=7.0, extra="\n[queue]\nsegments = 'x'\ncolour = 1\n")
        daemon.signal(signal.SIGHUP)
        text = daemon.wait_for("the old configuration stays in force")
        self.assertEqual(text.count("configuration refused: "), 2)
        self.assertEqual(self.drain_s(daemon), 20.0)
        os.kill(daemon.pid(), signal.SIGKILL)
        daemon.wait_for("mta-0 is ready", 2)
        self.assertEqual(self.drain_s(daemon), 20.0)

    def test_a_part_that_cannot_take_it_says_so(self) -> None:
        daemon = self.daemon(self.home()).ready()
        configure(daemon.home, drain_s=13.0)
        call(daemon.home, "mta-0", "reload")
        daemon.wait_for("mta-0 keeps the old configuration: ")

    def test_logs_moved_away_are_opened_anew_by_every_process(self) -> None:
        daemon = self.daemon(self.home()).ready()
        path = os.path.join(daemon.home, "log", "qmailpy.log")
        os.rename(path, path + ".1")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("has the new configuration", 2)
        daemon.signal(signal.SIGTERM)
        daemon.end()
        log = read(path)
        for name in ("qmailpy[", "mta-0[", "directory-0["):
            self.assertIn(name, log)


class OneProcessMode(DaemonCase):
    def test_with_no_workers_everything_is_in_one_process(self) -> None:
        daemon = self.daemon(self.home(workers=0)).ready()
        pid, connection = daemon.talk()
        connection.close()
        self.assertEqual(pid, daemon.process.pid)
        self.assertEqual(daemon.pid("directory-0"), pid)
        configure(daemon.home, drain_s=7.0, workers=0)
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("the new configuration is in force")
        self.assertEqual(call(daemon.home, "mta-0", "test.drain_s"), 7.0)
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.end(), 0, daemon.output)
        self.assertNotIn(b"Traceback", daemon.output)

    def test_draining_has_a_limit_too(self) -> None:
        daemon = self.daemon(self.home(workers=0, drain_s=0.3)).ready()
        call(daemon.home, "mta-0", "test.linger", seconds=60.0)
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.end(5.0), 0, daemon.output)

    def test_a_role_that_cannot_start_ends_it_with_status_1(self) -> None:
        daemon = DaemonProcess(self.home(workers=0), roles="tests.integration.no_such_roles")
        self.addCleanup(daemon.clean_up)
        self.assertEqual(daemon.end(), 1, daemon.output)
        self.assertIn(b"qmailpy cannot start: No module named", daemon.output)


class Hung(DaemonCase):
    def test_a_child_that_lives_and_does_not_answer_is_replaced(self) -> None:
        """SIGSTOP stands for whatever may hold a process up for ever; the limit is a minute outside of tests."""
        daemon = DaemonProcess(self.home(), "--silence", "0.8")
        self.addCleanup(daemon.clean_up)
        daemon.ready()
        victim, other = daemon.pid("mta-0"), daemon.pid("directory-0")
        os.kill(victim, signal.SIGSTOP)
        daemon.wait_for("mta-0 does not answer any more: killed")
        daemon.wait_for("mta-0 is ready", 2)
        self.assertTrue(gone(victim))
        pid, connection = daemon.talk()
        connection.close()
        self.assertNotEqual(pid, victim)
        self.assertEqual(daemon.pid("directory-0"), other)
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.end(), 0, daemon.output)
        self.assertEqual(daemon.output.count(b"does not answer"), 1)


class Former(DaemonCase):
    def test_what_was_told_of_the_processes_of_a_former_daemon_is_over(self) -> None:
        """It was killed, and could not tell."""
        home = self.home()
        os.mkdir(os.path.join(home, "log"))
        now = time.time() - 90
        events = EventLog(os.path.join(home, "log", FILE_NAME), "supervisor", lambda: now)
        events.happened("worker.down", worker="mta-0", why="it has said nothing for 15 s")
        self.daemon(home).ready()
        *_, last = thd_events(os.path.join(home, "log"))
        self.assertEqual(
            (last.event, last.fields["event"], last.fields["about"]), ("trouble.over", "worker.down", "mta-0")
        )


class ServiceManager(DaemonCase):
    def test_it_is_told_when_all_is_ready_and_hears_from_us(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(f"\0qmailpy-manager-{os.getpid()}")
            manager.settimeout(10)
            environment = {"NOTIFY_SOCKET": f"@qmailpy-manager-{os.getpid()}", "WATCHDOG_USEC": "100000"}
            daemon = self.daemon(self.home(), **environment)
            self.assertIn(b"READY=1", manager.recv(200))
            self.assertEqual(manager.recv(200), b"WATCHDOG=1")
            daemon.signal(signal.SIGTERM)
            while manager.recv(200) != b"STOPPING=1":
                continue
            self.assertEqual(daemon.end(), 0)


class Client(DaemonCase):
    def test_commands_find_a_running_daemon_and_tell_when_there_is_none(self) -> None:
        home = self.home()
        self.assertEqual(running(home), [])
        self.assertEqual((flush_directory(home), clear_counters(home)), (0, False))
        error = self.assertRaises(CommandError, call, home, "mta", "status")
        self.assertEqual(str(error), f"mta is not running on {home}")
        daemon = self.daemon(home).ready()
        self.assertEqual(call(home, "mta", "test.long", octets=200000), "x" * 200000)
        self.assertEqual([*call_all(home, "", "status")], ["directory-0", "mta-0"])
        error = self.assertRaises(CommandError, call, home, "mta", "test.long", octets=1, refuse=True)
        self.assertEqual(str(error), "refused as asked")
        old = os.path.join(home, "run", "control", "web-0.sock")
        with socket.socket(socket.AF_UNIX) as dead, short_path(old) as name:
            dead.bind(name)
        self.assertEqual([one.name for one in running(home)], ["directory-0", "mta-0"])
        self.assertRaises(CommandError, call, home, "web-0", "status")
        self.assertEqual(os.stat(running(home)[0].path).st_mode & 0o777, 0o600)
        worker = daemon.pid()
        os.kill(worker, signal.SIGSTOP)
        error = self.assertRaises(CommandError, call, home, "mta-0", "test.drain_s", timeout_s=0.3)
        self.assertIn("no answer", str(error))
        os.kill(worker, signal.SIGKILL)

    def test_a_home_with_a_long_name_works(self) -> None:
        """A UNIX socket's address holds 107 octets; a path may be longer."""
        home = os.path.join(os.path.abspath(self.mktemp()), "long" * 30)
        configure(home)
        daemon = self.daemon(home).ready()
        self.assertEqual(daemon.status()["role"], "mta")


class Privileges(SynchronousTestCase):
    def test_root_is_given_up_for_good(self) -> None:
        """In a process of its own, as root; without root there is nothing to give up."""
        if os.geteuid() != 0:
            return
        script = (
            "import os\nfrom qmailpy.app.privileges import become\nfrom qmailpy.disk.rights import Identity\n"
            f"become({Identity(65534, 65534)!r})\n"
            "print(os.getresuid(), os.getresgid(), os.getgroups())\n"
            "try:\n    os.setuid(0)\nexcept PermissionError:\n    print('kept out')\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
        expected = "(65534, 65534, 65534) (65534, 65534, 65534) [65534]\nkept out\n"
        self.assertEqual(done.stdout, expected)
