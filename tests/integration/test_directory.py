"""The directory with real processes and sockets: ldap-utils on our server, several writers, a killed one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService, Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, UNIXServerEndpoint
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from qmailpy.config.schema import Config, ServerConfig
from qmailpy.directory import service, setup
from qmailpy.directory.accounts import Accounts
from qmailpy.directory.embedded import EmbeddedDirectory
from qmailpy.directory.paths import socket_path
from qmailpy.directory.server import LdapServerFactory
from qmailpy.directory.store import Store
from qmailpy.errors import Temporary
from qmailpy.servers.keys import Pair, thd_read_pairs
from qmailpy.servers.tls import Certificates
from qmailpy.values import Alias, Mailbox

_BASE = "o=qmailpy"
_TOOLS = ("ldapsearch", "ldapadd", "ldapmodify", "ldapdelete", "ldapmodrdn", "ldappasswd", "ldapwhoami", "ldapcompare")


class _Connections(Service):
    """Ends the clients' connections when the server stops: after the ports, before the threads."""

    def __init__(self, factory: LdapServerFactory) -> None:
        self._factory = factory

    def stopService(self) -> None:
        super().stopService()
        self._factory.end_all()


def write_text(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def certificate_pair(home: str) -> tuple[Pair, str]:
    """A certificate for 127.0.0.1, and a file with whom it is trusted by."""
    kept = os.path.join(home, "tls")
    if not os.path.isdir(kept):
        os.makedirs(kept)
        openssl = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
        files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{kept}/key.pem", "-out", f"{kept}/cert.pem"]
        subprocess.run([*openssl.split(), *files], check=True, capture_output=True)
    return thd_read_pairs(home)[""], os.path.join(kept, "cert.pem")


def server_service(
    config: Config,
    endpoints: Sequence[Any],
    changed: Callable[[str], None],
    certificates: Certificates | None = None,
    implicit: Sequence[Any] = (),
) -> MultiService:
    """The LDAP server over the home's store, on endpoints instead of sockets handed down."""
    whole = MultiService()
    threads = service.DirectoryThreads(reactor)
    threads.setServiceParent(whole)
    store = Store(setup.store_path(config.home))
    base = config.directory.base
    for first, some in ((False, endpoints), (True, implicit)):
        factory = LdapServerFactory(
            reactor, store, base, threads.lookup, threads.hash, changed, certificates, implicit=first
        )
        _Connections(factory).setServiceParent(whole)
        for endpoint in some:
            StreamServerEndpointService(endpoint, factory).setServiceParent(whole)
    return whole


class _Endpoint(TCP4ServerEndpoint):
    """Remembers where it listens."""

    port = 0

    def listen(self, protocolFactory: Any) -> Deferred[Any]:
        def note(port: Any) -> Any:
            self.port = port.getHost().port
            return port

        listening: Deferred[Any] = super().listen(protocolFactory)
        return listening.addCallback(note)


class DirectoryTestCase(TestCase):
    def setUp(self) -> None:
        self.home = tempfile.mkdtemp(prefix="qd", dir="/tmp")  # a short path, for the UNIX socket
        self.addCleanup(shutil.rmtree, self.home)
        os.makedirs(os.path.join(self.home, "run"))
        self.postmaster = setup.create(self.home, _BASE, "example.org")
        self.config = Config(home=self.home, server=ServerConfig(hostname="mail.example.org"))
        self.store = Store(setup.store_path(self.home))
        self.addCleanup(self.store.thd_close)
        self.accounts = Accounts(self.store, _BASE)


class ServedTestCase(DirectoryTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.changed: list[str] = []
        self.start()

    def start(self) -> None:
        self.tcp = _Endpoint(reactor, 0, interface="127.0.0.1")
        unix = UNIXServerEndpoint(reactor, socket_path(self.home), mode=0o600, wantPID=True)
        self.tls = _Endpoint(reactor, 0, interface="127.0.0.1")
        pair, self.authority = certificate_pair(self.home)
        self.server = server_service(
            self.config, [self.tcp, unix], self.changed.append, Certificates({"": pair}), [self.tls]
        )
        self.server.startService()
        self.addCleanup(self.stop, self.server)

    async def stop(self, server: MultiService) -> None:
        if server.running:
            await server.stopService()

    async def tool(
        self,
        name: str,
        *arguments: str,
        who: str = "admin",
        stdin: str = "",
        status: int = 0,
        host: str = "127.0.0.1",
        uri: str = "",
    ) -> str:
        """What an LDAP tool prints."""
        uri = uri or f"ldap://{host}:{self.tcp.port}"
        login = [] if not who else ["-D", f"cn={who},{_BASE}", "-y", setup.secret_path(self.home, who)]
        command = [shutil.which(name) or name, "-x", "-H", uri, *login, *arguments]
        out, err, code = await getProcessOutputAndValue(
            command[0],
            command[1:],
            {**os.environ, "LDAPTLS_CACERT": self.authority},
            stdinBytes=stdin.encode() if stdin else None,
        )
        self.assertEqual(code, status, (name, arguments, out, err))
        return str(out.decode() + err.decode())


class ToolTests(ServedTestCase):
    """LDAP tools of Debian's ldap-utils."""

    if not all(map(shutil.which, _TOOLS)):
        skip = "ldap-utils is not installed: apt-get install ldap-utils"

    async def test_an_administrator_adds_changes_and_deletes_with_ldap_tools(self) -> None:
        ldif = f"""dn: dc=new.example,{_BASE}
objectClass: domain
objectClass: qmailDomain
dc: new.example
associatedDomain: New.Example

dn: uid=joe,dc=new.example,{_BASE}
objectClass: inetOrgPerson
objectClass: qmailUser
cn: Jöe
sn: Doe
mail: Joe@New.example
userPassword: sesame

"""
        await self.tool("ldapadd", stdin=ldif)
        found = await self.tool(
            "ldapsearch", "-LLL", "-b", _BASE, "(&(objectClass=qmailUser)(mail=JOE@*))", "mail", "cn"
        )
        self.assertIn(f"dn: uid=joe,dc=new.example,{_BASE}", found)
        self.assertIn("mail: joe@new.example", found)
        self.assertIn("cn:: SsO2ZQ==", found)
        dn = f"uid=joe,dc=new.example,{_BASE}"
        await self.tool(
            "ldapmodify",
            stdin=f"dn: {dn}\nchangetype: modify\nadd: mailAlternateAddress\nmailAlternateAddress: j@new.example\n",
        )
        self.assertEqual(self.accounts.thd_user("j@new.example").address, "joe@new.example")
        await self.tool("ldapcompare", dn, "sn:doe", status=6)
        await self.tool("ldapmodrdn", "-r", dn, "uid=joseph")
        await self.tool("ldappasswd", "-s", "open", f"uid=joseph,dc=new.example,{_BASE}")
        await self.tool("ldapdelete", f"uid=joseph,dc=new.example,{_BASE}")
        await self.tool("ldapdelete", f"dc=new.example,{_BASE}")
        self.assertEqual([one.name for one in self.accounts.thd_domains()], ["example.org"])
        self.assertIn("joe@new.example", self.changed)
        self.assertIn("new.example", self.changed)

    async def test_refusals_reach_the_tools(self) -> None:
        await self.tool("ldapsearch", "-b", _BASE, who="", status=50)
        dn = f"uid=postmaster,dc=example.org,{_BASE}"
        await self.tool("ldapdelete", dn, who="service", status=50)
        await self.tool("ldapdelete", f"dc=example.org,{_BASE}", status=66)
        bad = f"dn: {dn}\nchangetype: modify\nreplace: mailMessageStore\nmailMessageStore: /etc\n"
        self.assertIn("mailMessageStore", await self.tool("ldapmodify", stdin=bad, status=19))
        await self.tool("ldapsearch", "-b", f"dc=none,{_BASE}", status=32)

    async def test_passwords_are_not_to_be_had(self) -> None:
        for who in ("admin", "service"):
            found = await self.tool(
                "ldapsearch", "-LLL", "-b", _BASE, "(objectClass=*)", "*", "+", "userPassword", who=who
            )
            self.assertIn("postmaster@example.org", found)
            self.assertNotIn("userPassword", found)
        found = await self.tool("ldapsearch", "-LLL", "-b", _BASE, "(|(userPassword=*)(!(userPassword=x)))")
        self.assertNotIn("dn:", found)

    async def test_whoami_and_a_long_listing(self) -> None:
        self.assertIn(f"dn:cn=admin,{_BASE}", await self.tool("ldapwhoami"))
        for number in range(600):
            self.accounts.thd_add_alias(f"a{number}@example.org", ["x@remote.example"])
        found = await self.tool("ldapsearch", "-LLL", "-b", _BASE, "(deliveryMode=forwardonly)", "uid")
        self.assertEqual(found.count("dn:"), 600)

    async def test_pages_and_limits(self) -> None:
        """RFC 2696, and the limits of RFC 4511 s.4.5.1.4 and .5."""
        for number in range(300):
            self.accounts.thd_add_alias(f"a{number}@example.org", ["x@remote.example"])
        what = ("-LLL", "-b", _BASE, "(deliveryMode=forwardonly)", "uid")
        for size in (7, 100, 300):
            found = await self.tool("ldapsearch", "-E", f"pr={size}/noprompt", *what)
            self.assertEqual(len({line for line in found.splitlines() if line.startswith("dn:")}), 300, size)
        found = await self.tool("ldapsearch", "-z", "5", *what, status=4)
        self.assertEqual(found.count("dn:"), 5)

    async def test_the_schema_is_there_for_tools(self) -> None:
        found = await self.tool("ldapsearch", "-LLL", "-o", "ldif-wrap=no", "-s", "base", "-b", "cn=Subschema", "+")
        self.assertIn("NAME 'qmailPlan'", found)
        self.assertIn("NAME 'mailAlternateAddress'", found)
        found = await self.tool("ldapsearch", "-LLL", "-s", "base", "-b", "", "+", who="")
        self.assertIn("subschemaSubentry: cn=Subschema", found)

    async def test_a_password_is_made_up_for_who_names_none(self) -> None:
        found = await self.tool("ldappasswd", f"uid=postmaster,dc=example.org,{_BASE}")
        made = found.split("New password: ")[1].strip()
        directory = EmbeddedDirectory(self.store, maybeDeferred)
        self.assertIsNotNone(await directory.authenticate("postmaster@example.org", made.encode()))

    async def test_a_domain_administrator_keeps_to_his_domain(self) -> None:
        self.accounts.thd_add_domain("other.example")
        self.accounts.thd_add_user("x@other.example")
        dn = f"uid=postmaster,dc=example.org,{_BASE}"
        role = f"dn: {dn}\nchangetype: modify\nadd: qmailAdministers\nqmailAdministers: example.org\n"
        await self.tool("ldapmodify", stdin=role)
        secret = os.path.join(self.home, "postmaster")
        write_text(secret, self.postmaster)
        own = ("-D", dn, "-y", secret)
        found = await self.tool("ldapsearch", *own, "-LLL", "-b", _BASE, "(objectClass=*)", "dn", who="")
        self.assertEqual(sorted(found.split("\n\n"))[1:], [f"dn: dc=example.org,{_BASE}", f"dn: {dn}"])
        joe = f"uid=joe,dc=example.org,{_BASE}"
        entry = "objectClass: inetOrgPerson\nobjectClass: qmailUser\ncn: Joe\nsn: Joe\nmail: joe@{}\n"
        await self.tool("ldapadd", *own, who="", stdin=f"dn: {joe}\n{entry.format('example.org')}")
        await self.tool("ldapmodrdn", *own, "-r", joe, "uid=j", who="")
        await self.tool("ldapdelete", *own, f"uid=j,dc=example.org,{_BASE}", who="")
        await self.tool("ldapadd", *own, who="", stdin=f"dn: {joe}\n{entry.format('other.example')}", status=50)
        await self.tool("ldapdelete", *own, f"uid=x,dc=other.example,{_BASE}", who="", status=50)

    async def test_tls_by_starttls_and_from_the_beginning(self) -> None:
        """The certificate is verified by the tools, for the name they connect to."""
        self.assertIn("cn=admin", await self.tool("ldapwhoami", "-ZZ"))
        self.assertIn("cn=admin", await self.tool("ldapwhoami", uri=f"ldaps://127.0.0.1:{self.tls.port}"))
        # Another name for the same server, which its certificate does not have.
        await self.tool("ldapwhoami", "-ZZ", host="localhost", status=1)


class WorkerTests(ServedTestCase):
    """Our own workers on the UNIX socket."""

    async def test_the_whole_way_from_worker_to_file(self) -> None:
        self.accounts.thd_add_user("joe@example.org", secret=b"sesame")
        self.accounts.thd_add_alias("info@example.org", ["joe@example.org", "x@remote.example"])
        directory = service.ldap_directory(reactor, self.config)
        cache = service.cached(reactor, self.config, directory)
        try:
            self.assertIsNotNone(await cache.domain("example.org"))
            self.assertIsInstance(await cache.lookup("joe@example.org"), Mailbox)
            self.assertIsInstance(await cache.lookup("info@example.org"), Alias)
            self.assertIsNotNone(await cache.authenticate("joe@example.org", b"sesame"))
            self.assertIsNone(await cache.authenticate("joe@example.org", b"wrong"))
        finally:
            await directory.stop()

    async def test_a_server_that_comes_back_is_found_again(self) -> None:
        directory = service.ldap_directory(reactor, self.config)
        try:
            self.assertIsNotNone(await directory.domain("example.org"))
            await self.server.stopService()
            with self.assertRaises(Temporary):
                await directory.domain("example.org")
            self.start()
            # A probe finds it; nobody who asks before that has to wait.
            while not directory.figures()[0]["up"]:
                await deferLater(reactor, 0.01)
            self.assertIsNotNone(await directory.domain("example.org"))
        finally:
            await directory.stop()

    async def test_everything_in_one_process(self) -> None:
        threads = service.DirectoryThreads(reactor)
        threads.startService()
        try:
            store = Store(setup.store_path(self.home))
            directory = EmbeddedDirectory(store, threads.lookup, threads.hash)
            found = await directory.authenticate("postmaster@example.org", self.postmaster.encode())
            self.assertIsInstance(found, Mailbox)
            self.assertIsNone(await directory.lookup("nobody@example.org"))
            directory._store.thd_close()
        finally:
            threads.stopService()


class ProcessTests(DirectoryTestCase):
    """Several processes write; one dies in the middle."""

    def writer(self, prefix: str, most: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.integration.directory_writer", self.store._path, prefix, str(most)]
        place = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=place)

    def test_writers_in_several_processes_do_not_disturb_each_other(self) -> None:
        processes = [self.writer(prefix, 20) for prefix in "abc"]
        for process in processes:
            out, _ = process.communicate(timeout=60)
            self.assertEqual((process.returncode, out.count(b"\n")), (0, 20))
        self.assertEqual(len(self.accounts.thd_users("example.org")), 61)

    def test_what_a_killed_process_had_told_is_there_and_nothing_is_half(self) -> None:
        """C: each transaction is all or nothing, and durable when it returns."""
        process = self.writer("k", 100000)
        assert process.stdout is not None
        told = [process.stdout.readline().strip().decode() for _ in range(15)]
        process.kill()
        told += process.communicate()[0].decode().split()
        users = {user.address for user in self.accounts.thd_users("example.org")}
        self.assertLessEqual(set(told), users)
        self.assertLessEqual(len(users), len(told) + 2)  # postmaster, and one that was not told of any more
        with sqlite3.connect(self.store._path) as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchone(), ("ok",))
            orphans = "SELECT count(*) FROM {} WHERE entry NOT IN (SELECT id FROM entries)"
            for table in ("addresses", "keys"):
                self.assertEqual(database.execute(orphans.format(table)).fetchone(), (0,))
        database.close()
        self.accounts.thd_add_user("after@example.org")
