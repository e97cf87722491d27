"""The LDAP server: who may do what, and what it bears."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ldaptor.protocols import pureber, pureldap
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory import password
from qmailpy.directory.access import SCRAM_OPERATION, Code
from qmailpy.directory.connection import LdapConnection
from qmailpy.directory.server import LdapServerFactory
from tests.directory.parts import BASE, example, identity, served

_JOE = f"uid=joe,dc=example.org,{BASE}"
_ADMIN = (f"cn=admin,{BASE}", b"admin's")
_SERVICE = (f"cn=service,{BASE}", b"service's")


def _present(attribute: str) -> Any:
    return pureldap.LDAPFilter_present(attribute)


def _modification(change: int, attribute: str, *values: str) -> Any:
    return pureber.BERSequence(
        [
            pureber.BEREnumerated(change),
            pureber.BERSequence(
                [
                    pureldap.LDAPAttributeDescription(attribute),
                    pureber.BERSet([pureldap.LDAPString(value) for value in values]),
                ]
            ),
        ]
    )


def _add(dn: str, **attributes: str) -> Any:
    return pureldap.LDAPAddRequest(
        entry=dn,
        attributes=[
            (pureldap.LDAPAttributeDescription(name), pureber.BERSet([pureldap.LDAPAttributeValue(value)]))
            for name, value in attributes.items()
        ],
    )


def _equal(attribute: str, value: str) -> Any:
    return pureldap.LDAPFilter_equalityMatch(
        attributeDesc=pureldap.LDAPAttributeDescription(attribute),
        assertionValue=pureldap.LDAPAssertionValue(value),
    )


def attributes_of(found: Any) -> dict[str, list[str]]:
    """The attributes of an entry that was found."""
    return {kind.decode(): [value.decode() for value in values] for kind, values in found.attributes}


def local() -> StringTransport:
    """A transport of a client on this machine."""
    return StringTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", 50000))


def _alias(name: str = "info") -> Any:
    return _add(
        f"uid={name},dc=example.org,{BASE}",
        objectClass="qmailUser",
        mail=f"{name}@example.org",
        deliveryMode="forwardonly",
        mailForwardingAddress="x@remote.example",
    )


class ServerTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.accounts = example(self)
        self.accounts.thd_add_user("joe@example.org", secret=b"sesame")
        self.accounts.thd_add_user("ann@example.org", secret=b"secret")
        for name in ("admin", "service"):
            identity(self.accounts.store, name, password.ssha(f"{name}'s".encode()))
        self.clock = Clock()
        self.endpoint = served(self.accounts.store, self.clock)
        self.changed: list[str] = []
        self.endpoint.factory.changed = self.changed.append

    def connect(self, who: tuple[str, bytes] | None = None) -> LdapConnection:
        from twisted.internet.protocol import Factory

        connection = self.successResultOf(self.endpoint.connect(Factory.forProtocol(LdapConnection)))
        assert isinstance(connection, LdapConnection)
        if who is not None:
            bound = Deferred.fromCoroutine(connection.bind(*who))
            self.endpoint.flush()
            self.assertTrue(self.successResultOf(bound))
        return connection

    def tell(self, connection: LdapConnection, operation: Any) -> tuple[Any, list[Any]]:
        answer = connection.ask(operation)
        self.endpoint.flush()
        found = self.successResultOf(answer)
        return found.result, found.entries

    def code(self, connection: LdapConnection, operation: Any) -> int:
        return int(self.tell(connection, operation)[0].resultCode)

    def names(self, connection: LdapConnection, what: Any, **more: Any) -> list[str]:
        request = pureldap.LDAPSearchRequest(**{"baseObject": BASE, "filter": what, **more})
        return sorted(entry.objectName.decode() for entry in self.tell(connection, request)[1])


class AccessTests(ServerTestCase):
    def test_anonymous_sees_and_does_nothing(self) -> None:
        connection = self.connect()
        for operation in (
            pureldap.LDAPSearchRequest(baseObject=BASE),
            pureldap.LDAPSearchRequest(baseObject="", scope=2),
            pureldap.LDAPSearchRequest(baseObject="cn=Subschema", scope=0),
            pureldap.LDAPCompareRequest(
                _JOE,
                pureldap.LDAPAttributeValueAssertion(
                    pureldap.LDAPAttributeDescription("uid"), pureldap.LDAPAssertionValue("joe")
                ),
            ),
            _alias(),
            pureldap.LDAPDelRequest(_JOE),
            pureldap.LDAPModifyRequest(object=_JOE, modification=[_modification(2, "cn", "x")]),
            pureldap.LDAPModifyDNRequest(_JOE, "uid=x", True),
            pureldap.LDAPPasswordModifyRequest(userIdentity=_JOE, newPasswd=b"x"),
        ):
            final, found = self.tell(connection, operation)
            self.assertEqual((final.resultCode, found), (Code.INSUFFICIENT_ACCESS, []), type(operation))

    def test_a_name_without_a_password_is_not_a_login(self) -> None:
        """RFC 4513 s.5.1.2: it must never be taken for a successful one."""
        connection = self.connect()
        self.assertEqual(self.code(connection, pureldap.LDAPBindRequest(dn=_JOE, auth=b"")), Code.UNWILLING)

    def test_a_failed_bind_leaves_nobody_bound(self) -> None:
        connection = self.connect(_ADMIN)
        self.assertEqual(
            self.code(connection, pureldap.LDAPBindRequest(dn=_ADMIN[0], auth=b"no")), Code.INVALID_CREDENTIALS
        )
        self.assertEqual(self.code(connection, pureldap.LDAPDelRequest(_JOE)), Code.INSUFFICIENT_ACCESS)

    def test_only_simple_binds_of_version_3(self) -> None:
        connection = self.connect()
        sasl = pureldap.LDAPBindRequest(dn="", auth=(b"PLAIN", b"x"), sasl=True)
        self.assertEqual(self.code(connection, sasl), Code.AUTH_METHOD)
        self.assertEqual(self.code(connection, pureldap.LDAPBindRequest(version=2)), Code.PROTOCOL_ERROR)

    def test_no_bind_as_somebody_suspended(self) -> None:
        for status in ("disabled", "noaccess", "deleted"):
            self.accounts.thd_set_user("joe@example.org", status=status)
            bind = pureldap.LDAPBindRequest(dn=_JOE, auth=b"sesame")
            self.assertEqual(self.code(self.connect(), bind), Code.INVALID_CREDENTIALS, status)

    def test_nobody_ever_reads_a_password(self) -> None:
        for who in (_ADMIN, _SERVICE, (_JOE, b"sesame")):
            connection = self.connect(who)
            for request in (
                pureldap.LDAPSearchRequest(baseObject=BASE),
                pureldap.LDAPSearchRequest(baseObject=BASE, attributes=["userPassword"]),
                pureldap.LDAPSearchRequest(baseObject=_JOE, attributes=["*", "userPassword", "userpassword;x"]),
            ):
                _, found = self.tell(connection, request)
                self.assertTrue(found)
                shown = json.dumps([[str(part) for part in entry.attributes] for entry in found]).lower()
                self.assertNotIn("userpassword", shown)
                self.assertNotIn("argon2", shown)
                self.assertNotIn("scram", shown)

    def test_nobody_tests_a_password_by_filter_or_compare(self) -> None:
        connection = self.connect(_ADMIN)
        self.assertEqual(self.names(connection, _present("userPassword")), [])
        self.assertEqual(self.names(connection, pureldap.LDAPFilter_not(_present("userPassword"))), [])
        ava = pureldap.LDAPAttributeValueAssertion(
            pureldap.LDAPAttributeDescription("userPassword"), pureldap.LDAPAssertionValue("x")
        )
        self.assertEqual(self.code(connection, pureldap.LDAPCompareRequest(_JOE, ava)), Code.INSUFFICIENT_ACCESS)

    def test_only_the_service_asks_for_a_secret_of_scram(self) -> None:
        """Never an LDAP client's: neither the admin nor the user himself, and not by reading userPassword."""
        request = pureldap.LDAPExtendedRequest(requestName=SCRAM_OPERATION, requestValue=b"joe@example.org")
        for who in (None, _ADMIN, (_JOE, b"sesame")):
            answer, _ = self.tell(self.connect(who), request)
            self.assertEqual((answer.resultCode, answer.response), (Code.INSUFFICIENT_ACCESS, None))
        answer, _ = self.tell(self.connect(_SERVICE), request)
        self.assertEqual(answer.response[:15], b"{SCRAM-SHA-256}")

    def test_the_service_looks_up_and_changes_nothing(self) -> None:
        connection = self.connect(_SERVICE)
        self.assertEqual(self.names(connection, _present("mail")), [f"uid=ann,dc=example.org,{BASE}", _JOE])
        for operation in (
            _alias(),
            pureldap.LDAPDelRequest(_JOE),
            pureldap.LDAPModifyRequest(object=_JOE, modification=[_modification(2, "cn", "x")]),
            pureldap.LDAPModifyDNRequest(_JOE, "uid=x", True),
            pureldap.LDAPPasswordModifyRequest(userIdentity=_JOE, newPasswd=b"x"),
            pureldap.LDAPPasswordModifyRequest(newPasswd=b"x"),
        ):
            self.assertEqual(self.code(connection, operation), Code.INSUFFICIENT_ACCESS)

    def test_a_user_sees_himself_only(self) -> None:
        connection = self.connect((_JOE, b"sesame"))
        self.assertEqual(self.names(connection, _present("objectClass")), [_JOE])
        self.assertEqual(self.names(connection, _present("objectClass"), baseObject=_JOE, scope=0), [_JOE])
        ann = f"uid=ann,dc=example.org,{BASE}"
        self.assertEqual(self.names(connection, _present("objectClass"), baseObject=ann, scope=0), [])
        self.assertEqual(self.code(connection, pureldap.LDAPDelRequest(_JOE)), Code.INSUFFICIENT_ACCESS)

    def test_a_user_changes_his_own_password_only(self) -> None:
        """RFC 3062."""
        connection = self.connect((_JOE, b"sesame"))
        own = pureldap.LDAPPasswordModifyRequest(oldPasswd=b"sesame", newPasswd=b"open")
        other = pureldap.LDAPPasswordModifyRequest(userIdentity=f"uid=ann,dc=example.org,{BASE}", newPasswd=b"x")
        wrong = pureldap.LDAPPasswordModifyRequest(oldPasswd=b"no", newPasswd=b"x")
        self.assertEqual(self.code(connection, wrong), Code.INVALID_CREDENTIALS)
        self.assertEqual(self.code(connection, other), Code.INSUFFICIENT_ACCESS)
        self.assertEqual(self.code(connection, own), Code.SUCCESS)
        self.connect((_JOE, b"open"))
        self.assertIn("joe@example.org", self.changed)

    def test_the_admin_adds_changes_renames_and_deletes(self) -> None:
        connection = self.connect(_ADMIN)
        dn = f"uid=info,dc=example.org,{BASE}"
        self.assertEqual(self.code(connection, _alias()), Code.SUCCESS)
        self.assertEqual(self.code(connection, _alias()), Code.EXISTS)
        change = pureldap.LDAPModifyRequest(
            object=dn, modification=[_modification(0, "mailForwardingAddress", "y@remote.example")]
        )
        self.assertEqual(self.code(connection, change), Code.SUCCESS)
        self.assertEqual(self.accounts.thd_aliases("example.org")[0].targets, ("x@remote.example", "y@remote.example"))
        self.assertEqual(self.code(connection, pureldap.LDAPModifyDNRequest(dn, "uid=news", True)), Code.SUCCESS)
        self.assertEqual(self.names(connection, _present("deliveryMode")), [f"uid=news,dc=example.org,{BASE}"])
        self.assertEqual(self.code(connection, pureldap.LDAPDelRequest(dn)), Code.NO_SUCH_OBJECT)
        self.assertEqual(
            self.code(connection, pureldap.LDAPDelRequest(f"uid=news,dc=example.org,{BASE}")), Code.SUCCESS
        )
        self.assertEqual(set(self.changed), {"info@example.org"})

    def test_what_the_admin_may_not_do_is_refused_with_its_code(self) -> None:
        connection = self.connect(_ADMIN)
        for operation, code in (
            (pureldap.LDAPDelRequest(f"dc=example.org,{BASE}"), Code.NOT_ON_NONLEAF),
            (pureldap.LDAPDelRequest(_SERVICE[0]), Code.UNWILLING),
            (pureldap.LDAPDelRequest("no name"), Code.INVALID_DN),
            (_add("o=elsewhere", objectClass="x"), Code.NO_SUCH_OBJECT),
            (_add(f"uid=x,dc=none,{BASE}", objectClass="x"), Code.NO_SUCH_OBJECT),
            (_add(f"uid=x,dc=example.org,{BASE}", objectClass="qmailUser", mail="../x"), Code.CONSTRAINT),
            (_add(f"uid=x,{BASE}", objectClass="qmailUser", mail="joe@example.org"), Code.CONSTRAINT),
            (
                pureldap.LDAPModifyRequest(object=_JOE, modification=[_modification(1, "title")]),
                Code.NO_SUCH_ATTRIBUTE,
            ),
            (pureldap.LDAPModifyRequest(object=_JOE, modification=[_modification(7, "cn")]), Code.PROTOCOL_ERROR),
            (
                pureldap.LDAPModifyRequest(object=_JOE, modification=[_modification(2, "mailMessageStore", "/etc")]),
                Code.CONSTRAINT,
            ),
            (pureldap.LDAPExtendedRequest(requestName="1.2.3"), Code.PROTOCOL_ERROR),
            (pureldap.LDAPExtendedRequest(pureldap.LDAPPasswordModifyRequest.oid, b"\x30\x7f"), Code.PROTOCOL_ERROR),
        ):
            self.assertEqual(self.code(connection, operation), code, operation)

    def test_a_password_that_comes_in_clear_is_stored_hashed(self) -> None:
        connection = self.connect(_ADMIN)
        change = pureldap.LDAPModifyRequest(object=_JOE, modification=[_modification(2, "userPassword", "plain")])
        self.assertEqual(self.code(connection, change), Code.SUCCESS)
        entry = self.accounts.store.thd_by_address("joe@example.org")
        assert entry is not None
        self.assertTrue(entry.value("userPassword").startswith("{ARGON2}"))
        self.connect((_JOE, b"plain"))


class SearchTests(ServerTestCase):
    def test_filters_scopes_and_attributes(self) -> None:
        connection = self.connect(_SERVICE)
        ann = f"uid=ann,dc=example.org,{BASE}"
        equal = pureldap.LDAPFilter_equalityMatch(
            pureldap.LDAPAttributeDescription("MAIL"), pureldap.LDAPAssertionValue("Joe@example.org")
        )
        begins = pureldap.LDAPFilter_substrings(
            "mail", [pureldap.LDAPFilter_substrings_initial("a"), pureldap.LDAPFilter_substrings_final(".org")]
        )
        users = _present("mail")
        self.assertEqual(self.names(connection, equal), [_JOE])
        self.assertEqual(self.names(connection, begins), [ann])
        self.assertEqual(self.names(connection, pureldap.LDAPFilter_or([equal, begins])), [ann, _JOE])
        self.assertEqual(
            self.names(connection, pureldap.LDAPFilter_and([users, pureldap.LDAPFilter_not(equal)])), [ann]
        )
        self.assertEqual(self.names(connection, users, scope=1), [])
        self.assertEqual(self.names(connection, users, baseObject=f"dc=example.org,{BASE}", scope=1), [ann, _JOE])
        request = pureldap.LDAPSearchRequest(baseObject=_JOE, attributes=["MAIL", "nothing"])
        found = self.tell(connection, request)[1][0]
        self.assertEqual(found.attributes, [(b"mail", [b"joe@example.org"])])
        none = pureldap.LDAPSearchRequest(baseObject=_JOE, attributes=["1.1"])
        self.assertEqual(self.tell(connection, none)[1][0].attributes, [])

    def test_the_client_s_limits_hold(self) -> None:
        connection = self.connect(_SERVICE)
        final, found = self.tell(connection, pureldap.LDAPSearchRequest(baseObject=BASE, sizeLimit=2))
        self.assertEqual((final.resultCode, len(found)), (Code.SIZE_LIMIT, 2))

    def test_a_base_that_is_not_there(self) -> None:
        connection = self.connect(_SERVICE)
        for base, code in (
            ("dc=none," + BASE, Code.NO_SUCH_OBJECT),
            ("junk", Code.INVALID_DN),
            ("", Code.NO_SUCH_OBJECT),
        ):
            self.assertEqual(self.code(connection, pureldap.LDAPSearchRequest(baseObject=base)), code)

    def test_the_root_tells_what_is_here(self) -> None:
        """RFC 4512 s.5.1: nobody has to log in for that."""
        request = pureldap.LDAPSearchRequest(baseObject="", scope=0, attributes=["+"])
        found = attributes_of(self.tell(self.connect(), request)[1][0])
        self.assertEqual(found["namingContexts"], [BASE])
        self.assertEqual(found["subschemaSubentry"], ["cn=Subschema"])
        self.assertIn("1.2.840.113556.1.4.319", found["supportedControl"])
        self.assertNotIn("1.3.6.1.4.1.1466.20037", found["supportedExtension"])

    def test_the_schema_is_published(self) -> None:
        """RFC 4512 s.4.4: where subschemaSubentry points, to whoever asks by name."""
        request = pureldap.LDAPSearchRequest(
            baseObject="cn=subschema", scope=0, filter=_equal("objectClass", "subschema"), attributes=["+"]
        )
        found = attributes_of(self.tell(self.connect((_JOE, b"sesame")), request)[1][0])
        self.assertTrue(any("NAME 'mailHost'" in one for one in found["attributeTypes"]))
        self.assertTrue(any("NAME 'qmailUser'" in one for one in found["objectClasses"]))

    def test_operational_attributes_are_for_who_asks(self) -> None:
        connection = self.connect(_SERVICE)
        for wanted, shown in (((), False), (("*",), False), (("+",), True), (("entryDN",), True)):
            request = pureldap.LDAPSearchRequest(baseObject=_JOE, scope=0, attributes=wanted)
            found = attributes_of(self.tell(connection, request)[1][0])
            self.assertEqual("entryDN" in found, shown, wanted)

    def test_a_critical_control_is_refused(self) -> None:
        connection = self.connect(_SERVICE)
        answer = connection.ask(pureldap.LDAPSearchRequest(baseObject=BASE), [("1.2.3", True, b"")])
        self.endpoint.flush()
        self.assertEqual(self.successResultOf(answer).result.resultCode, Code.CRITICAL_EXTENSION)

    def test_a_slow_reader_holds_the_search_back(self) -> None:
        """Batches go out no faster than the client reads; memory stays bounded."""
        for number in range(450):
            self.accounts.thd_add_alias(f"a{number}@example.org", ["x@remote.example"])
        factory = self.endpoint.factory
        server = factory.buildProtocol(None)
        assert server is not None
        transport = local()
        server.makeConnection(transport)
        server.dataReceived(pureldap.LDAPMessage(pureldap.LDAPBindRequest(dn=_ADMIN[0], auth=_ADMIN[1]), id=1).toWire())
        search = pureldap.LDAPMessage(pureldap.LDAPSearchRequest(baseObject=BASE), id=2).toWire()
        held: list[Deferred[Any]] = []

        def slowly(function: Any, *arguments: Any) -> Deferred[Any]:
            answer: Deferred[Any] = Deferred()
            answer.addCallback(lambda _: function(*arguments))
            held.append(answer)
            return answer

        factory.in_thread = slowly
        server.dataReceived(search)
        assert transport.producer is not None
        transport.producer.pauseProducing()
        held[0].callback(None)
        self.assertEqual(len(held), 1)
        transport.producer.resumeProducing()
        self.assertEqual(len(held), 2)
        held[1].callback(None)
        held[2].callback(None)
        self.assertIsNone(transport.producer)
        self.assertEqual(transport.value().count(b"deliveryMode"), 450)


class BearingTests(ServerTestCase):
    """What comes in may be anything."""

    def raw(self, *octets: bytes) -> StringTransport:
        server = LdapServerFactory(self.clock, self.accounts.store, BASE, maybeDeferred).buildProtocol(None)
        assert server is not None
        transport = local()
        server.makeConnection(transport)
        for one in octets:
            server.dataReceived(one)
        return transport

    def test_garbage_ends_the_connection_with_a_notice(self) -> None:
        for octets in (b"GET / HTTP/1.0\r\n\r\n", b"\x30\x84\xff\xff\xff\xff", b"\x30\x03\x02\x01\x01", b"\x30\x00"):
            transport = self.raw(octets)
            self.assertTrue(transport.disconnecting, octets)
            self.assertIn(b"1.3.6.1.4.1.1466.20036", transport.value())

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_a_damaged_request_does_no_harm(self, data: st.DataObject) -> None:
        """No traceback is logged (trial would fail) and nothing is deleted."""
        request = data.draw(
            st.sampled_from(
                [
                    pureldap.LDAPSearchRequest(baseObject=BASE, attributes=["mail"]),
                    pureldap.LDAPBindRequest(dn=_JOE, auth="x" * 10),
                    pureldap.LDAPModifyRequest(object=_JOE, modification=[_modification(2, "cn", "x")]),
                    _alias(),
                ]
            )
        )
        octets = bytearray(pureldap.LDAPMessage(request, id=5).toWire())
        for _ in range(data.draw(st.integers(1, 3))):
            octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
        self.raw(bytes(octets))
        self.flushLoggedErrors()

    def test_deep_filters_are_refused(self) -> None:
        what: Any = _present("mail")
        for _ in range(60):
            what = pureldap.LDAPFilter_not(what)
        transport = self.raw(
            pureldap.LDAPMessage(pureldap.LDAPSearchRequest(baseObject=BASE, filter=what), id=1).toWire()
        )
        self.assertTrue(transport.disconnecting)

    def test_strangers_may_not_send_large_messages(self) -> None:
        transport = self.raw(pureldap.LDAPMessage(pureldap.LDAPBindRequest(dn="cn=x", auth="x" * 20000), id=1).toWire())
        self.assertTrue(transport.disconnecting)

    def test_guessing_ends_the_connection(self) -> None:
        bind = pureldap.LDAPMessage(pureldap.LDAPBindRequest(dn=_JOE, auth=b"no"), id=1).toWire()
        transport = self.raw(bind * 5)
        self.clock.advance(0)
        self.assertTrue(transport.disconnecting)

    def test_a_connection_that_says_nothing_ends(self) -> None:
        transport = self.raw()
        self.clock.advance(61)
        self.assertTrue(transport.disconnecting)

    def test_connections_end_with_the_last_port(self) -> None:
        factory = self.endpoint.factory
        for _ in range(2):
            factory.doStart()
        connection = self.connect()
        factory.doStop()
        self.endpoint.flush()
        self.assertTrue(connection.open)
        factory.doStop()
        self.endpoint.flush()
        self.assertFalse(connection.open)

    def test_too_many_connections_are_not_taken(self) -> None:
        factory = self.endpoint.factory
        factory.most = 1
        self.assertIsNotNone(factory.buildProtocol(None))
        self.assertIsNone(factory.buildProtocol(None))

    def test_many_requests_at_once_stop_the_reading(self) -> None:
        factory = LdapServerFactory(self.clock, self.accounts.store, BASE, lambda *_: Deferred())
        server = factory.buildProtocol(None)
        assert server is not None
        transport = local()
        server.makeConnection(transport)
        compare = pureldap.LDAPCompareRequest(
            _JOE,
            pureldap.LDAPAttributeValueAssertion(
                pureldap.LDAPAttributeDescription("uid"), pureldap.LDAPAssertionValue("joe")
            ),
        )
        server.dataReceived(pureldap.LDAPMessage(compare, id=1).toWire() * 50)
        self.assertEqual(transport.producerState, "paused")

    def test_answers_come_in_the_order_of_the_questions(self) -> None:
        connection = self.connect(_ADMIN)
        asked = [connection.ask(_alias(f"a{number}")) for number in range(50)]
        asked.append(connection.ask(pureldap.LDAPDelRequest(f"uid=a49,dc=example.org,{BASE}")))
        self.endpoint.flush()
        self.assertEqual({self.successResultOf(one).result.resultCode for one in asked}, {Code.SUCCESS})
