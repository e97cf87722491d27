"""
A DNS with signatures: Debian's knot has the zones and signs them, Debian's unbound validates, both on loopback.

C{signed.test} is signed and trusted, C{plain.test} is not signed, C{bogus.test} is signed by somebody else than is
trusted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile

import dns.flags
import dns.message
import dns.query
from twisted.trial.unittest import SkipTest

from tests.integration.daemon_process import until

KNOT = """
server:
    listen: 127.0.0.1@{port}
    rundir: "{base}/knot"
    user: root
log:
  - target: stderr
    any: warning
database:
    storage: "{base}/knot"
policy:
  - id: fast
    algorithm: ecdsap256sha256
    nsec3: off
template:
  - id: default
    storage: "{base}/knot"
    zonefile-sync: -1
    zonefile-load: difference
    journal-content: all
  - id: signed
    storage: "{base}/knot"
    zonefile-sync: -1
    zonefile-load: difference
    journal-content: all
    dnssec-signing: on
    dnssec-policy: fast
zone:
"""

UNBOUND = """
server:
    interface: 127.0.0.1
    port: {port}
    do-daemonize: no
    username: ""
    chroot: ""
    directory: "{base}"
    pidfile: ""
    use-syslog: no
    verbosity: 1
    do-not-query-localhost: no
    do-ip6: no
    num-threads: 1
    module-config: "validator iterator"
    local-zone: "test." nodefault
    root-hints: ""
    domain-insecure: "plain.test."
    prefetch: no
    cache-max-ttl: 5
remote-control:
    control-enable: no
"""

HEAD = "$ORIGIN {zone}.\n$TTL 60\n@ SOA ns.{zone}. root.{zone}. 1 3600 900 604800 5\n@ NS ns.{zone}.\nns A 127.0.0.1\n"

WRONG = "12345 13 2 " + "ab" * 32
"""The digest of a key that nobody has."""


class Dnssec:
    """Runs from its making to C{close}."""

    def __init__(self, signed: str, plain: str, bogus: str, unsigned_below: str = "") -> None:
        """
        @param signed: lines of the zone signed.test; the others alike.
        @param unsigned_below: a name in signed.test whose own zone has no signatures though it should.
        @raise SkipTest: not installed.
        """
        path = os.environ.get("PATH", "") + ":/usr/sbin"
        programs = [shutil.which(name, path=path) for name in ("knotd", "keymgr", "unbound")]
        if None in programs:
            raise SkipTest("needs knot and unbound (apt-get install knot unbound)")
        knotd, keymgr, unbound = (str(program) for program in programs)
        self.base = tempfile.mkdtemp(prefix="qmailpy-dnssec-")
        self._processes: list[subprocess.Popen[bytes]] = []
        os.mkdir(f"{self.base}/knot")
        zones = {"signed.test": signed, "plain.test": plain, "bogus.test": bogus}
        if unsigned_below:
            zones[unsigned_below] = ""
        for zone, lines in zones.items():
            self._write(f"knot/{zone}.zone", HEAD.format(zone=zone) + lines)
        names, self.port = _free_port(), _free_port()
        config = KNOT.format(base=self.base, port=names)
        for zone in zones:
            template = "signed" if zone in ("signed.test", "bogus.test") else "default"
            config += f"  - domain: {zone}\n    template: {template}\n"
        self._write("knot.conf", config)
        try:
            self._start(knotd, "-c", f"{self.base}/knot.conf")
            until(lambda: _answers(names, "signed.test", "DNSKEY"), 20)
            said = subprocess.run(
                [keymgr, "-c", f"{self.base}/knot.conf", "signed.test", "ds"],
                capture_output=True,
                timeout=20,
                check=True,
            )
            anchor = next(line for line in said.stdout.decode().splitlines() if " DS " in line)
            more = f'    trust-anchor: "{anchor}"\n    trust-anchor: "bogus.test. DS {WRONG}"\n'
            stubs = "".join(f'stub-zone:\n    name: "{zone}."\n    stub-addr: 127.0.0.1@{names}\n' for zone in zones)
            text = UNBOUND.format(base=self.base, port=self.port).replace("    prefetch", f"{more}    prefetch")
            self._write("unbound.conf", text + stubs)
            self._start(unbound, "-d", "-c", f"{self.base}/unbound.conf")
            until(lambda: _answers(self.port, "signed.test", "SOA"), 20)
        except BaseException:
            self.close()
            raise

    def _write(self, name: str, text: str) -> None:
        with open(f"{self.base}/{name}", "w") as target:
            target.write(text)

    def _start(self, *command: str) -> None:
        with open(f"{self.base}/log", "ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes.append(process)

    def log(self) -> str:
        with open(f"{self.base}/log", errors="replace") as source:
            return source.read()

    def close(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.base, ignore_errors=True)


def _free_port() -> int:
    """A port free for UDP and TCP."""
    for _ in range(20):
        with socket.create_server(("127.0.0.1", 0)) as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            port: int = stream.getsockname()[1]
            with contextlib.suppress(OSError):
                datagram.bind(("127.0.0.1", port))
                return port
    raise AssertionError("no port is free")


def _answers(port: int, name: str, kind: str) -> bool:
    query = dns.message.make_query(name, kind)
    with contextlib.suppress(Exception):
        return bool(dns.query.udp(query, "127.0.0.1", timeout=0.2, port=port).answer)
    return False
