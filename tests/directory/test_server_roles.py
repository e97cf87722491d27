"""The LDAP server as domain administrators and operators meet it; pages, TLS, logins."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from ldaptor.protocols import pureber, pureldap
from twisted.internet.address import IPv4Address
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import ITLSTransport
from twisted.internet.testing import StringTransport
from zope.interface import implementer

from qmailpy.directory import ber, decode, paging
from qmailpy.directory.access import Code
from qmailpy.directory.names import parse
from qmailpy.directory.schema import Entry
from qmailpy.directory.server import LdapServer, LdapServerFactory
from tests.directory.parts import BASE
from tests.directory.test_server import (
    _ADMIN,
    _JOE,
    _SERVICE,
    ServerTestCase,
    _alias,
    _modification,
    _present,
    attributes_of,
    local,
)

_BOSS = (f"uid=boss,dc=other.example,{BASE}", b"boss's")
_ROOT = (f"uid=root,dc=example.org,{BASE}", b"root's")
_STARTTLS = "1.3.6.1.4.1.1466.20037"


def modify(dn: str, change: int, attribute: str, *values: str) -> Any:
    return pureldap.LDAPModifyRequest(object=dn, modification=[_modification(change, attribute, *values)])


class RoleTestCase(ServerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.accounts.thd_add_domain("other.example")
        self.accounts.thd_add_domain("third.example")
        self.accounts.thd_add_user("boss@other.example", secret=b"boss's")
        self.accounts.thd_add_user("x@other.example")
        self.accounts.thd_add_user("root@example.org", secret=b"root's")
        self.accounts.thd_add_user("y@third.example")
        self.give("uid=root,dc=example.org", qmailadministers=("*",))
        self.give("uid=boss,dc=other.example", qmailadministers=("example.org", "third.example"))
        self.give("dc=example.org", qmaildomainplan=("Gold",))
        plans = parse(f"ou=plans,{BASE}")
        store = self.accounts.store
        store.thd_add(Entry(plans, {"objectclass": ("organizationalUnit",)}))
        for plan in ("gold", "silver"):
            store.thd_add(Entry(plans.child("cn", plan), {"objectclass": ("qmailPlan",)}))

    def give(self, dn: str, **values: tuple[str, ...]) -> None:
        self.accounts.store.thd_modify(
            parse(f"{dn},{BASE}"), lambda entry: evolve(entry, attributes={**entry.attributes, **values})
        )


class DomainAdministratorTests(RoleTestCase):
    SEEN = (
        *(f"cn=gold,ou=plans,{BASE}", f"dc=example.org,{BASE}", f"dc=third.example,{BASE}"),
        *(f"uid=ann,dc=example.org,{BASE}", f"uid=boss,dc=other.example,{BASE}", _JOE),
        *(f"uid=root,dc=example.org,{BASE}", f"uid=y,dc=third.example,{BASE}"),
    )

    def test_his_domains_are_seen_and_no_other(self) -> None:
        connection = self.connect(_BOSS)
        self.assertEqual(self.names(connection, _present("objectClass")), sorted(self.SEEN))
        below = self.names(connection, _present("objectClass"), baseObject=f"dc=other.example,{BASE}")
        self.assertEqual(below, [_BOSS[0]])
        found = self.names(connection, _present("objectClass"), baseObject=f"dc=other.example,{BASE}", scope=0)
        self.assertEqual(found, [])
        found = self.names(connection, _present("objectClass"), scope=1)
        self.assertEqual(found, [f"dc=example.org,{BASE}", f"dc=third.example,{BASE}"])
        found = self.names(connection, _present("objectClass"), baseObject=f"dc=example.org,{BASE}", scope=1)
        self.assertEqual(len(found), 3)
        found = self.names(connection, _present("userPassword"))
        self.assertEqual(found, [])

    def test_pages_of_a_part_are_the_whole_part(self) -> None:
        for size in (1, 2, 3, 100):
            self.assertEqual(sorted(pages(self, Raw(self, _BOSS), size)), sorted(self.SEEN), size)

    def test_users_of_his_domains_are_changed(self) -> None:
        connection = self.connect(_BOSS)
        ours, others = _alias(), f"uid=x,dc=other.example,{BASE}"
        self.assertEqual(self.code(connection, ours), Code.SUCCESS)
        self.assertEqual(self.code(connection, modify(_JOE, 2, "qmailPlanName", "gold")), Code.SUCCESS)
        for refused in (
            modify(_JOE, 2, "qmailPlanName", "silver"),
            modify(_JOE, 2, "mailMessageStore", "example.org/ann/Maildir"),
            modify(others, 2, "cn", "X"),
            modify(_ROOT[0], 2, "userPassword", "mine"),
            pureldap.LDAPPasswordModifyRequest(userIdentity=_ROOT[0], newPasswd=b"mine"),
            pureldap.LDAPPasswordModifyRequest(userIdentity=others, newPasswd=b"mine"),
            pureldap.LDAPDelRequest(_ROOT[0]),
            pureldap.LDAPDelRequest(others),
            pureldap.LDAPDelRequest(f"uid=nobody,dc=other.example,{BASE}"),
            pureldap.LDAPModifyDNRequest(_JOE, "uid=joe", False, f"dc=other.example,{BASE}"),
            pureldap.LDAPModifyDNRequest(_JOE, "mailHost=x", False),
        ):
            self.assertEqual(self.code(connection, refused), Code.INSUFFICIENT_ACCESS, type(refused))
        joe = pureldap.LDAPPasswordModifyRequest(userIdentity=_JOE, newPasswd=b"new")
        self.assertEqual(self.code(connection, joe), Code.SUCCESS)
        self.assertEqual(self.code(connection, pureldap.LDAPModifyDNRequest(_JOE, "uid=j", True)), Code.SUCCESS)
        self.connect((f"uid=j,dc=example.org,{BASE}", b"new"))

    def test_what_an_entry_became_meanwhile_counts(self) -> None:
        """Between the look at it and the change it is made an operator's."""
        store = self.accounts.store
        original = store.thd_modify

        def late(name: Any, change: Any) -> Any:
            self.patch(store, "thd_modify", original)
            self.give("uid=joe,dc=example.org", qmailadministers=("*",))
            return original(name, change)

        connection = self.connect(_BOSS)
        self.patch(store, "thd_modify", late)
        self.assertEqual(self.code(connection, modify(_JOE, 2, "userPassword", "x")), Code.INSUFFICIENT_ACCESS)
        self.connect((_JOE, b"sesame"))

    def test_what_is_taken_away_is_gone_at_once(self) -> None:
        connection = self.connect(_BOSS)
        self.give("uid=boss,dc=other.example", qmailadministers=())
        self.assertEqual(self.names(connection, _present("objectClass")), [_BOSS[0]])
        self.assertEqual(self.code(connection, pureldap.LDAPDelRequest(_JOE)), Code.INSUFFICIENT_ACCESS)
        self.give("uid=boss,dc=other.example", accountstatus=("disabled",))
        final, found = self.tell(connection, pureldap.LDAPSearchRequest(baseObject=BASE))
        self.assertEqual((final.resultCode, found), (Code.INSUFFICIENT_ACCESS, []))


class OperatorTests(RoleTestCase):
    def test_an_operator_does_everything_but_read_passwords(self) -> None:
        connection = self.connect(_ROOT)
        self.assertEqual(len(self.names(connection, _present("objectClass"))), 15)
        self.assertEqual(self.code(connection, modify(_JOE, 2, "mailQuotaSize", "5")), Code.SUCCESS)
        self.assertEqual(self.names(connection, _present("userPassword")), [])
        self.assertEqual(self.code(connection, pureldap.LDAPDelRequest(_ADMIN[0])), Code.UNWILLING)

    def test_a_plan_that_changes_concerns_everybody(self) -> None:
        connection = self.connect(_ROOT)
        self.tell(connection, modify(f"cn=gold,ou=plans,{BASE}", 2, "mailSizeMax", "5"))
        self.assertEqual(self.changed, [""])


class UserTests(RoleTestCase):
    def test_a_user_changes_what_is_his(self) -> None:
        connection = self.connect((_JOE, b"sesame"))
        for request, code in (
            (modify(_JOE, 2, "displayName", "Joe"), Code.SUCCESS),
            (modify(_JOE, 0, "deliveryMode", "reply"), Code.SUCCESS),
            (modify(_JOE, 2, "mailQuotaSize", "5"), Code.INSUFFICIENT_ACCESS),
            (modify(_JOE, 0, "qmailAdministers", "*"), Code.INSUFFICIENT_ACCESS),
            (modify(f"uid=ann,dc=example.org,{BASE}", 2, "displayName", "x"), Code.INSUFFICIENT_ACCESS),
        ):
            self.assertEqual(self.code(connection, request), code)
        self.assertEqual(self.names(connection, _present("objectClass")), [_JOE])

    def test_a_password_can_be_made_up(self) -> None:
        """RFC 3062 s.2.2."""
        final, _ = self.tell(self.connect((_JOE, b"sesame")), pureldap.LDAPPasswordModifyRequest())
        self.assertEqual(final.resultCode, Code.SUCCESS)
        (made,) = pureber.berDecodeMultiple(final.response[2:], _Plain())
        self.connect((_JOE, made.value))


class _Plain(pureber.BERDecoderContext):  # type: ignore[misc]
    Identities = {0x80: pureber.BEROctetString}


class Raw:
    """A client that sends controls."""

    def __init__(self, case: ServerTestCase, who: tuple[str, bytes]) -> None:
        server = case.endpoint.factory.buildProtocol(None)
        assert server is not None
        self._server, self._transport = server, local()
        server.makeConnection(self._transport)
        bound = self.ask(pureldap.LDAPBindRequest(dn=who[0], auth=who[1]))
        case.assertEqual([one.value.resultCode for one in bound], [Code.SUCCESS])

    def ask(self, operation: Any, controls: Any = None) -> list[Any]:
        """All that comes back."""
        self._transport.clear()
        self._server.dataReceived(pureldap.LDAPMessage(operation, controls=controls, id=1).toWire())
        return [decode.message(octets) for octets in ber.Frames(1 << 20).feed(self._transport.value())]


def one_page(client: Raw, size: int, cookie: bytes, **more: Any) -> tuple[int, list[str], bytes]:
    """Result code, names and the cookie of a page."""
    value = pureber.BERSequence([pureber.BERInteger(size), pureber.BEROctetString(cookie)]).toWire()
    request = pureldap.LDAPSearchRequest(**{"baseObject": BASE, "filter": _present("objectClass"), **more})
    *found, final = client.ask(request, [(paging.CONTROL, True, value)])
    given = b""
    for kind, _, octets in final.controls or ():
        assert kind == paging.CONTROL
        given = pureber.berDecodeObject(pureber.BERDecoderContext(), octets)[0][1].value
    return final.value.resultCode, [one.value.objectName.decode() for one in found], given


def pages(case: ServerTestCase, client: Raw, size: int, **more: Any) -> list[str]:
    """The names a paged search finds, every page but the last of that size."""
    found: list[str] = []
    cookie = b""
    while True:
        code, some, cookie = one_page(client, size, cookie, **more)
        case.assertEqual(code, Code.SUCCESS)
        found += some
        if not cookie:
            return found
        case.assertEqual(len(some), size)


class PagingTests(RoleTestCase):
    def test_pages_together_are_the_whole(self) -> None:
        for number in range(250):
            self.accounts.thd_add_alias(f"a{number}@example.org", ["x@remote.example"])
        connection = self.connect(_ADMIN)
        whole = self.names(connection, _present("objectClass"))
        self.assertEqual(len(whole), 265)
        for size in (1, 7, 53, 200, 265, 1000):
            self.assertEqual(sorted(pages(self, Raw(self, _ADMIN), size)), whole, size)

    def test_a_cookie_is_good_for_its_search_once_and_on_its_connection(self) -> None:
        connection = Raw(self, _ADMIN)
        _, _, cookie = one_page(connection, 2, b"")
        other = Raw(self, _ADMIN)
        self.assertEqual(one_page(other, 2, cookie)[0], Code.UNWILLING)
        self.assertEqual(one_page(connection, 2, cookie, scope=1)[0], Code.UNWILLING)
        self.assertEqual(one_page(connection, 2, cookie)[0], Code.UNWILLING)
        self.assertEqual(one_page(connection, 2, b"\x00dc=x")[0], Code.UNWILLING)

    def test_a_client_that_has_enough_says_so(self) -> None:
        connection = Raw(self, _ADMIN)
        _, _, cookie = one_page(connection, 2, b"")
        self.assertEqual(one_page(connection, 0, cookie), (Code.SUCCESS, [], b""))
        self.assertEqual(one_page(connection, 2, cookie)[0], Code.UNWILLING)

    def test_searches_left_open_are_forgotten(self) -> None:
        kept = paging.Pages()
        cookies = [kept.control("q", "a")[2] for _ in range(50)]
        self.assertEqual(len(set(cookies)), 50)
        self.assertEqual(len(kept._kept), 16)


class LoginTests(RoleTestCase):
    def request(self, dn: str = _JOE, **values: str) -> Any:
        values = values or {"qmailLastLogin": "20261124080000Z", "qmailLastService": "pop3"}
        return pureldap.LDAPModifyRequest(
            object=dn, modification=[_modification(2, name, value) for name, value in values.items()]
        )

    def test_workers_note_when_somebody_logged_in_and_no_more(self) -> None:
        connection = self.connect(_SERVICE)
        self.assertEqual(self.code(connection, self.request()), Code.SUCCESS)
        self.assertEqual(self.changed, [])
        for refused in (
            self.request(cn="x"),
            self.request(qmailLastLogin="20261124080000Z", mailHost="x.example"),
            self.request(qmailLastService="pop3"),
            modify(_JOE, 0, "qmailLastLogin", "20261124080000Z"),
        ):
            self.assertEqual(self.code(connection, refused), Code.INSUFFICIENT_ACCESS)
        self.assertEqual(self.code(connection, self.request(qmailLastLogin="now")), Code.CONSTRAINT)
        self.assertEqual(self.code(connection, self.request(f"uid=none,{BASE}")), Code.NO_SUCH_OBJECT)

    def test_it_is_seen_by_who_asks_and_written_by_nobody_else(self) -> None:
        self.tell(self.connect(_SERVICE), self.request())
        connection = self.connect((_JOE, b"sesame"))
        for wanted, expected in ((["qmailLastLogin"], ["20261124080000Z"]), (["+"], ["20261124080000Z"]), ([], None)):
            request = pureldap.LDAPSearchRequest(baseObject=_JOE, scope=0, attributes=wanted)
            found = attributes_of(self.tell(connection, request)[1][0])
            self.assertEqual(found.get("qmailLastLogin"), expected, wanted)
        self.assertEqual(self.code(self.connect(_ADMIN), self.request()), Code.CONSTRAINT)


@implementer(ITLSTransport)
class _Transport(StringTransport):
    """A transport that notes when TLS begins."""

    secured = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        """As of any TCP transport."""

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """As of any TCP transport."""

    def getTcpKeepAlive(self) -> bool:
        return False

    def loseWriteConnection(self) -> None:
        """As of any TCP transport."""

    def startTLS(self, certificates: object) -> None:
        self.secured = True
        self.before = self.value()


class TlsTests(RoleTestCase):
    def open(self, host: str, *, certificates: bool = True, implicit: bool = False) -> tuple[LdapServer, _Transport]:
        factory = LdapServerFactory(
            self.clock,
            self.accounts.store,
            BASE,
            maybeDeferred,
            certificates=object() if certificates else None,  # type: ignore[arg-type]
            implicit=implicit,
        )
        server = factory.buildProtocol(None)
        assert server is not None
        transport = _Transport(peerAddress=IPv4Address("TCP", host, 50000))
        server.makeConnection(transport)
        return server, transport

    def bind(self, server: LdapServer, transport: _Transport) -> int:
        transport.clear()
        octets = pureldap.LDAPMessage(pureldap.LDAPBindRequest(dn=_JOE, auth=b"sesame"), id=1).toWire()
        server.dataReceived(octets)
        return int(decode.message(transport.value()).value.resultCode)

    def start(self) -> bytes:
        octets: bytes = pureldap.LDAPMessage(pureldap.LDAPExtendedRequest(requestName=_STARTTLS), id=7).toWire()
        return octets

    def test_no_password_in_clear_from_elsewhere(self) -> None:
        server, transport = self.open("192.0.2.1")
        self.assertEqual(self.bind(server, transport), Code.CONFIDENTIALITY)
        server, transport = self.open("127.0.0.1")
        self.assertEqual(self.bind(server, transport), Code.SUCCESS)

    def test_after_starttls_it_is_taken(self) -> None:
        server, transport = self.open("192.0.2.1")
        server.dataReceived(self.start())
        self.assertTrue(transport.secured)
        self.assertEqual(decode.message(transport.before).value.resultCode, Code.SUCCESS)
        self.assertEqual(self.bind(server, transport), Code.SUCCESS)
        transport.clear()
        server.dataReceived(self.start())
        self.assertEqual(decode.message(transport.value()).value.resultCode, Code.OPERATIONS)

    def test_what_comes_behind_starttls_in_clear_is_never_taken_for_protected(self) -> None:
        bind = pureldap.LDAPMessage(pureldap.LDAPBindRequest(dn=_JOE, auth=b"sesame"), id=8).toWire()
        for behind in (bind, bind[:5]):
            server, transport = self.open("192.0.2.1")
            server.dataReceived(self.start() + behind)
            self.assertFalse(transport.secured)
            self.assertTrue(transport.disconnecting)

    def test_tls_may_come_first(self) -> None:
        server, transport = self.open("192.0.2.1", implicit=True)
        self.assertTrue(transport.secured)
        self.assertEqual(self.bind(server, transport), Code.SUCCESS)

    def test_without_a_certificate_there_is_none(self) -> None:
        server, transport = self.open("192.0.2.1", certificates=False)
        server.dataReceived(self.start())
        self.assertEqual(decode.message(transport.value()).value.resultCode, Code.PROTOCOL_ERROR)
        self.assertFalse(transport.secured)
