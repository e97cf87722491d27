"""Debian's slapd with qmailpy's schema, on directories and ports of the test's own."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence

from qmailpy.directory import subschema
from tests.integration.daemon_process import until
from tests.integration.peers.running import free_port

PATH = "/usr/sbin:/sbin:" + os.environ.get("PATH", "")
SLAPD = shutil.which("slapd", path=PATH)
SLAPADD = shutil.which("slapadd", path=PATH)
ROOT_PASSWORD = b"root secret"
SERVICE_PASSWORD = b"service secret"
BASE = "o=qmailpy"
ROOT_DN = f"cn=root,{BASE}"
SERVICE_DN = f"cn=service,{BASE}"
LIMIT_S = 20.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG

_CONFIG = """dn: cn=config
objectClass: olcGlobal
cn: config
olcPidFile: {place}/pid
olcServerID: {number}
olcIdleTimeout: 0
{tls}
dn: cn=module{{0}},cn=config
objectClass: olcModuleList
cn: module{{0}}
olcModulePath: /usr/lib/ldap
olcModuleLoad: back_mdb
olcModuleLoad: argon2
olcModuleLoad: syncprov

dn: cn=schema,cn=config
objectClass: olcSchemaConfig
cn: schema

include: file:///etc/ldap/schema/core.ldif

include: file:///etc/ldap/schema/cosine.ldif

include: file:///etc/ldap/schema/inetorgperson.ldif

include: file:///etc/ldap/schema/nis.ldif
{schema}
dn: olcDatabase={{0}}config,cn=config
objectClass: olcDatabaseConfig
olcDatabase: {{0}}config
olcAccess: to * by dn.exact=gidNumber={gid}+uidNumber={uid},cn=peercred,cn=external,cn=auth manage by * break
olcRootDN: cn=config
olcRootPW: {root_password}

dn: olcDatabase={{1}}mdb,cn=config
objectClass: olcDatabaseConfig
objectClass: olcMdbConfig
olcDatabase: {{1}}mdb
olcDbDirectory: {place}/data
olcDbNosync: TRUE
olcSuffix: {base}
olcRootDN: {root}
olcRootPW: {root_password}
olcDbIndex: objectClass eq
olcDbIndex: entryUUID,entryCSN eq
olcDbIndex: uid,mail eq
olcAccess: to attrs=userPassword by dn.exact="cn=service,{base}" read by self write by anonymous auth by * none
{more}olcAccess: to * by dn.exact="cn=service,{base}" read by self read by * none
"""
_OURS = """olcAccess: to attrs=qmailLastLogin,qmailLastService,qmailLastAddress
  by dn.exact="cn=service,o=qmailpy" write by self read by * none
olcDbIndex: mailAlternateAddress,associatedDomain eq
"""

_MIRROR = """olcSyncrepl: rid=00{rid} provider=ldap://127.0.0.1:{port} bindmethod=simple binddn="{root}"
  credentials="{password}" searchbase="{base}" type=refreshAndPersist retry="1 +" timeout=3
"""
_PROVIDER = """
dn: olcOverlay=syncprov,olcDatabase={1}mdb,cn=config
objectClass: olcOverlayConfig
objectClass: olcSyncProvConfig
olcOverlay: syncprov
"""


class Slapd:
    """A server; C{start} and C{kill} as often as wanted."""

    def __init__(
        self,
        place: str,
        *,
        number: int = 1,
        mirrors: Sequence[int] = (),
        port: int = 0,
        schema: bool = True,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        """
        @param place: a directory to be made; its path short, for the socket.
        @param mirrors: ports of servers whose changes are taken over (multi-provider).
        @param schema: whether ours is loaded from the beginning.
        @param certificate: files with certificate and key, for TLS.
        """
        assert SLAPD and SLAPADD
        self.place = place
        self.port = port or free_port()
        self.tls_port = free_port() if certificate else 0
        self.process: subprocess.Popen[bytes] | None = None
        for name in ("config", "data"):
            os.makedirs(os.path.join(place, name))
        tls = ""
        if certificate:
            tls = f"olcTLSCertificateFile: {certificate[0]}\nolcTLSCertificateKeyFile: {certificate[1]}\n"
        text = _CONFIG.format(
            place=place,
            number=number,
            base=BASE,
            uid=os.geteuid(),
            gid=os.getegid(),
            root=ROOT_DN,
            root_password=ROOT_PASSWORD.decode(),
            schema=f"\n{subschema.ldif()}" if schema else "",
            more=_OURS if schema else "",
            tls=tls,
        )
        for rid, other in enumerate(mirrors, 1):
            text += _MIRROR.format(rid=rid, port=other, root=ROOT_DN, password=ROOT_PASSWORD.decode(), base=BASE)
        if mirrors:
            text += "olcMultiProvider: TRUE\n"
        text += _PROVIDER
        subprocess.run(
            [SLAPADD, "-n", "0", "-F", os.path.join(place, "config")],
            input=text.encode(),
            check=True,
            capture_output=True,
            timeout=LIMIT_S,
        )

    @property
    def url(self) -> str:
        return f"ldap://127.0.0.1:{self.port}"

    @property
    def socket(self) -> str:
        return os.path.join(self.place, "ldapi")

    def start(self) -> Slapd:
        """Start it and wait until it answers."""
        assert SLAPD
        urls = f"{self.url} ldapi://{self.socket.replace('/', '%2F')}"
        if self.tls_port:
            urls += f" ldaps://127.0.0.1:{self.tls_port}"
        libc = ctypes.CDLL(None)
        with open(os.path.join(self.place, "output"), "ab") as output:
            self.process = subprocess.Popen(
                [SLAPD, "-d", "0", "-h", urls, "-F", os.path.join(self.place, "config")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL),
            )
        until(self._answers, LIMIT_S)
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            with open(os.path.join(self.place, "output")) as source:
                raise AssertionError(f"slapd ended: {source.read()[-2000:]}")
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def add(self, ldif: str) -> None:
        """Add entries with ldapadd, as the administrator."""
        command = ["ldapadd", "-x", "-H", self.url, "-D", ROOT_DN, "-w", ROOT_PASSWORD.decode()]
        done = subprocess.run(command, input=ldif.encode(), capture_output=True, timeout=LIMIT_S, check=False)
        if done.returncode:
            raise AssertionError(f"ldapadd: {done.stderr.decode()}")

    def search(self, what: str, *attributes: str) -> str:
        """What ldapsearch finds, as the administrator."""
        command = ["ldapsearch", "-x", "-LLL", "-H", self.url, "-D", ROOT_DN, "-w", ROOT_PASSWORD.decode()]
        done = subprocess.run(
            [*command, "-b", BASE, what, *attributes], capture_output=True, timeout=LIMIT_S, check=False
        )
        return done.stdout.decode()

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(LIMIT_S)

    def freeze(self) -> None:
        """SIGSTOP: connections are taken by the kernel, and nobody answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        until(self._stands, LIMIT_S)

    def _stands(self) -> bool:
        """Whether every thread has stopped: the signal comes to them one after the other."""
        assert self.process is not None
        tasks = f"/proc/{self.process.pid}/task"
        states = []
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/stat") as source:
                states.append(source.read().rpartition(")")[2].split()[0])
        return set(states) == {"T"}

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


def people(users: Sequence[str] = ("alice", "bob")) -> str:
    """LDIF of a base, a service identity and users of example.org whose password is C{sesame}."""
    from qmailpy.directory.password import ssha

    parts = [
        f"dn: {BASE}\nobjectClass: organization\no: qmailpy\n",
        f"dn: {SERVICE_DN}\nobjectClass: applicationProcess\nobjectClass: simpleSecurityObject\ncn: service\n"
        f"userPassword: {ssha(SERVICE_PASSWORD)}\n",
        f"dn: dc=example.org,{BASE}\nobjectClass: domain\nobjectClass: qmailDomain\ndc: example.org\n"
        "associatedDomain: example.org\n",
    ]
    parts += [entry(user, ssha(b"sesame")) for user in ("postmaster", *users)]
    return "\n".join(parts)


def entry(user: str, *passwords: str) -> str:
    """LDIF of a user of example.org."""
    lines = [
        f"dn: uid={user},dc=example.org,{BASE}",
        "objectClass: inetOrgPerson",
        "objectClass: qmailUser",
        *(f"{name}: {user}" for name in ("uid", "cn", "sn")),
        f"mail: {user}@example.org",
        *(f"userPassword: {one}" for one in passwords),
    ]
    return "\n".join(lines) + "\n"
