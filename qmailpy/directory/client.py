"""
The directory over the wire: L{IDirectory} as questions to an LDAP server, or to one of several.

L{servers} has the servers and says which is asked, L{pool} the connections to one. What fails there, or takes too long,
is L{Temporary} (451 4.3.0) here: never "no such user". Filters are built as ldaptor objects, never as text, so no
address can be anything but a value (RFC 4515 does not arise). Two entries for one address are an error of the
directory's and make mail wait, too, and so does a server that refers us to another one: whom we do not know we do not
ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ldaptor.protocols import pureber, pureldap
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.clocks import wall
from qmailpy.directory import address as addresses
from qmailpy.directory import meaning, schema
from qmailpy.directory import password as passwords
from qmailpy.directory.access import SCRAM_OPERATION, Code
from qmailpy.directory.cache import IForgets
from qmailpy.directory.connection import Answer, LdapTrouble
from qmailpy.directory.inherited import Inherited
from qmailpy.directory.pool import LdapBusy, Pool
from qmailpy.directory.schema import Attributes
from qmailpy.directory.servers import CODES_AWAY, Away, Servers
from qmailpy.errors import Temporary
from qmailpy.events.log import NoEvents
from qmailpy.interfaces import IDirectory, IEvents, InThread
from qmailpy.values import Alias, Domain, Group, Mailbox, ScramSecret

AGAIN_S = 60.0
"""While it is away that is told again so often, for the events file to write now and then."""

FAILURE_S = 0.25
"""
The answer to a wrong password comes after a multiple of this: how long another directory takes to say so would tell
whether the name exists.
"""


_MEMBERS_AT_ONCE = 50  # of a group's members that are named by their entries


@implementer(IDirectory, IForgets)
class LdapDirectory:
    """L{IDirectory} over LDAP."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        servers: Servers,
        base: str,
        *,
        ours: bool = True,
        compare: InThread | None = None,
        events: IEvents | None = None,
    ) -> None:
        """
        @param base: the name everything is below.
        @param ours: whether it is the embedded server, which knows our own operations.
        @param compare: runs the comparison of passwords with hashes we can read; C{None} = the server compares (bind).
        """
        self._clock = clock
        self._servers = servers
        self._base = base
        self._ours = ours
        self._compare = compare
        self._comparing = DeferredSemaphore(2)  # a core each
        self.events = events or NoEvents()
        self._away = False
        self._since = 0.0  # it is away
        self._said = 0.0  # when that was told the last time
        self._inherited = Inherited(clock.seconds, self._entry_of)

    def use(self, other: LdapDirectory, after_s: float) -> None:
        """
        Ask where C{other}, which is not used otherwise, would: after a change of the configuration.

        @param after_s: how long questions under way may still take.
        """
        self._servers.retire(after_s)
        self._servers, self._base, self._ours = other._servers, other._base, other._ours
        self._compare = other._compare
        self.forget()

    @property
    def away(self) -> bool:
        """Whether the last question to the directory found nobody who answered it."""
        return self._away

    def figures(self) -> list[dict[str, object]]:
        """L{Servers.figures}."""
        return self._servers.figures()

    async def domain(self, name: str) -> Domain | None:
        if not addresses.possible(name):
            return None
        key = addresses.key(name)
        what = pureldap.LDAPFilter_and([_equal("objectClass", "qmailDomain"), _equal("associatedDomain", key)])
        found = await self._question(self._search(what, meaning.DOMAIN_ATTRIBUTES))
        return meaning.domain(found[1]) if found else None

    async def lookup(self, address: str) -> Mailbox | Alias | Group | None:
        if not addresses.possible(address):
            return None
        found: Mailbox | Alias | Group | None = await self._question(self._lookup(address))
        return found

    async def _lookup(self, address: str) -> Mailbox | Alias | Group | None:
        found = await self._search(_address(address), meaning.LOOKUP_ATTRIBUTES)
        return await self._meaning(found[1]) if found else None

    async def _meaning(self, attributes: Attributes) -> Mailbox | Alias | Group | None:
        """What an entry means, with what it takes from others."""
        inherited = await self._inherited.of(attributes)
        named = meaning.dns(attributes)
        known: dict[str, str] = {}
        for at in range(0, len(named), _MEMBERS_AT_ONCE):
            some = named[at : at + _MEMBERS_AT_ONCE]
            found = await gatherResults([Deferred.fromCoroutine(self._mail_of(dn)) for dn in some], consumeErrors=True)
            known.update(zip(some, found, strict=True))
        return meaning.recipient(attributes, *inherited, addresses_of=known)

    async def _mail_of(self, dn: str) -> str:
        """The main address of an entry, "" when it has none or is not there."""
        found = await self._search(_present("objectClass"), ("mail",), base=dn)
        return meaning.first(found[1], "mail") if found else ""

    async def _entry_of(self, kind: str, name: str) -> Attributes | None:
        """For L{Inherited}."""
        attribute, wanted = {
            "domain": ("associatedDomain", meaning.DOMAIN_ATTRIBUTES),
            "plan": ("cn", meaning.PLAN_ATTRIBUTES),
        }[kind]
        what = pureldap.LDAPFilter_and([_equal("objectClass", f"qmail{kind.capitalize()}"), _equal(attribute, name)])
        found = await self._search(what, wanted)
        return found[1] if found else None

    def forget(self) -> None:
        """Something in the directory has changed."""
        self._inherited.forget()

    async def authenticate(self, login: str, password: bytes) -> Mailbox | None:
        if not password or len(password) > passwords.MOST:
            return None  # a bind without a password succeeds as nobody (RFC 4513 s.5.1.2)
        began = self._clock.seconds()
        found = await self._authenticate(login, password)
        if found is None and not self._ours:
            spent = self._clock.seconds() - began
            await deferLater(self._clock, FAILURE_S - spent % FAILURE_S)
        return found

    async def _authenticate(self, login: str, password: bytes) -> Mailbox | None:
        wanted = meaning.LOOKUP_ATTRIBUTES if self._compare is None else (*meaning.LOOKUP_ATTRIBUTES, "userPassword")
        found = await self._question(self._search(_address(login), wanted)) if addresses.possible(login) else None
        open_ = found is not None and meaning.may_log_in(found[1])
        if self._compare is not None:
            stored = found[1].get("userpassword", ()) if found is not None and open_ else ()
            right: bool = await self._comparing.run(self._compare, passwords.thd_verify, stored, password)
        else:
            # For somebody unknown we bind as well, so that the time taken tells nothing.
            dn = found[0] if found is not None and open_ else f"uid=nobody,{self._base}"
            ask = self._servers.ask(lambda pool: pool.check(dn, password), telling=False)
            right = await self._question(ask, telling=False)
        if not right or found is None or not open_:
            return None
        mailbox = await self._question(self._meaning(found[1]))
        return mailbox if isinstance(mailbox, Mailbox) else None

    async def scram(self, login: str) -> ScramSecret | None:
        if not addresses.possible(login):
            return None
        if not self._ours:
            wanted = ("mail", "accountStatus", "deliveryMode", "userPassword")
            found = await self._question(self._search(_address(login), wanted))
            if found is None or not meaning.may_log_in(found[1]):
                return None
            return passwords.scram(found[1].get("userpassword", ()))
        request = pureldap.LDAPExtendedRequest(
            requestName=SCRAM_OPERATION, requestValue=addresses.key(login).encode("utf-8", "surrogateescape")
        )
        answer: Answer = await self._question(self._exchange(request))
        if answer.result.resultCode != Code.SUCCESS:
            return None
        return passwords.scram([_text(answer.result.response or b"")])

    async def logged_in(self, address: str, service: str, ip: str) -> None:
        if not addresses.possible(address):
            return
        found = await self._question(self._search(_address(address), ("mail",)))
        if found is None:
            return
        when = schema.time_value(wall(self._clock)())
        values = (("qmailLastLogin", when), ("qmailLastService", service), ("qmailLastAddress", ip))
        request = pureldap.LDAPModifyRequest(
            object=found[0], modification=[_replacement(name, value) for name, value in values if value]
        )
        answer: Answer = await self._question(self._exchange(request))
        if answer.result.resultCode != Code.SUCCESS:
            raise LdapTrouble(f"qmailLastLogin cannot be written: result code {answer.result.resultCode}")

    async def stop(self) -> None:
        """End all connections; questions under way fail."""
        self._servers.stop()

    async def _question(self, coroutine: Any, *, telling: bool = True) -> Any:
        """
        Turn what goes wrong with a question into the reply that keeps mail waiting.

        @param telling: whether one that takes too long, or is one too many, tells that the directory is away. A
            password does not: who guesses by thousands fills that queue, and mail goes on all the while.
        """
        try:
            result = await coroutine
        except Temporary:
            raise
        except Exception as problem:  # refused, lost, timed out, nonsense: the directory is away
            why = f"{type(problem).__name__}: {problem}"[:300]
            now = self._clock.seconds()
            if not telling and isinstance(problem, LateError | LdapBusy):
                pass
            elif not self._away:
                self._away = True
                self._since = self._said = now
                self.log.warn("the directory is away: {problem}", problem=why)
                self.events.happened("directory.away", why=why)
            elif not 0 <= now - self._said < AGAIN_S:  # it goes on: how often that is told is not for us to say
                self._said = now
                self.events.happened("directory.away", why=why)
            raise Temporary(schema.AWAY, f"directory: {why}") from None
        if self._away:
            self._away = False
            self.log.info("the directory is back")
            self.events.happened("directory.back", seconds=round(self._clock.seconds() - self._since))
        return result

    async def _search(
        self, what: Any, attributes: Sequence[str], base: str | None = None
    ) -> tuple[str, Attributes] | None:
        """The one entry that C{what} finds, or whose name is C{base}: its name and attributes."""
        request = pureldap.LDAPSearchRequest(
            baseObject=self._base if base is None else base.encode("utf-8", "surrogateescape"),
            scope=pureldap.LDAP_SCOPE_wholeSubtree if base is None else pureldap.LDAP_SCOPE_baseObject,
            filter=what,
            attributes=attributes,
            sizeLimit=2,
            timeLimit=int(self._servers.each_s) or 1,
        )
        answer: Answer = await self._exchange(request)
        code, found = answer.result.resultCode, answer.entries
        if code not in (Code.SUCCESS, Code.SIZE_LIMIT, Code.NO_SUCH_OBJECT, Code.INVALID_DN):
            raise LdapTrouble(f"search: result code {code}")
        if len(found) > 1 or code == Code.SIZE_LIMIT:
            raise Temporary(schema.MISCONFIGURED, f"two entries for one key: {found[0].objectName!r} is one")
        if not found and answer.referred:
            raise Temporary(schema.MISCONFIGURED, "the server refers us to another one, which is not asked")
        return (_text(found[0].objectName), _attributes(found[0])) if found else None

    async def _exchange(self, request: Any) -> Answer:
        """A request as the service identity."""
        return await self._servers.ask(lambda pool: _asked(pool, request))


async def _asked(pool: Pool, request: Any) -> Answer:
    answer = await pool.exchange(request)
    if answer.result.resultCode in CODES_AWAY:
        raise Away(f"result code {answer.result.resultCode}")
    return answer


def _equal(attribute: str, value: str) -> Any:
    return pureldap.LDAPFilter_equalityMatch(
        attributeDesc=pureldap.LDAPAttributeDescription(attribute),
        assertionValue=pureldap.LDAPAssertionValue(value.encode("utf-8", "surrogateescape")),
    )


def _replacement(attribute: str, value: str) -> Any:
    """A step of a modify request: the attribute gets this value and no other (RFC 4511 s.4.6)."""
    what = [pureldap.LDAPAttributeDescription(attribute), pureber.BERSet([pureldap.LDAPString(value)])]
    return pureber.BERSequence([pureber.BEREnumerated(2), pureber.BERSequence(what)])


def _present(attribute: str) -> Any:
    return pureldap.LDAPFilter_present(attribute)


def _address(address: str) -> Any:
    key = addresses.key(address)
    return pureldap.LDAPFilter_or([_equal("mail", key), _equal("mailAlternateAddress", key)])


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _attributes(found: Any) -> Attributes:
    return {_text(kind).lower(): tuple(_text(value) for value in values) for kind, values in found.attributes}
