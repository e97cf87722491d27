"""
An LDAP client for commands: one connection, one question at a time, everything blocks.

What daemons ask goes through L{client}; here administrators' commands add and change entries, walk a whole tree and try
a server out before it is used. The same messages, limits and rules of TLS hold.

What fails and how: L{LdapError}, with the server's result code, or 0 when there was no answer.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ldaptor.protocols import pureber, pureldap

from qmailpy.config.ldapurl import LdapUrl
from qmailpy.config.schema import DirectoryConfig
from qmailpy.control.client import short_path
from qmailpy.directory import ber, decode, filters
from qmailpy.directory.access import Code
from qmailpy.directory.operations import Modification, Scope
from qmailpy.directory.paging import CONTROL
from qmailpy.directory.requests import octets, text
from qmailpy.directory.schema import Attributes
from qmailpy.errors import QmailpyError

PAGE = 500
"""Entries asked for at once (RFC 2696)."""

_MESSAGE = 4 * 1048576

Found = tuple[str, Attributes]
"""Name and attributes of an entry."""


class LdapError(QmailpyError):
    """The server refused or did not answer; the text is one line for people."""

    def __init__(self, text_: str, code: int = 0) -> None:
        super().__init__(text_)
        self.code = code


class BlockingLdap:
    """A connection."""

    def __init__(self, url: LdapUrl, options: DirectoryConfig) -> None:
        """
        Connect, with TLS as the configuration wants it.

        @param options: C{starttls}, C{ca_file} and C{timeout_s} count.
        @raise LdapError: it cannot be.
        """
        self._url = url
        self._frames = ber.Frames(_MESSAGE)
        self._ready: list[bytes] = []
        self._number = 0
        try:
            self._socket = self._connected(options.timeout_s)
        except OSError as error:
            raise LdapError(f"{url}: cannot be reached: {error.strerror or error}") from None
        try:
            if url.scheme == "ldaps" or (url.scheme == "ldap" and options.starttls != "none"):
                self._secure(options)
        except BaseException:
            self.close()
            raise

    def _connected(self, timeout_s: float) -> socket.socket:
        if self._url.scheme != "ldapi":
            return socket.create_connection((self._url.host, self._url.port), timeout_s)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(timeout_s)
            with short_path(self._url.path) as name:
                made.connect(name)
        except BaseException:
            made.close()
            raise
        return made

    def _secure(self, options: DirectoryConfig) -> None:
        if self._url.scheme == "ldap":
            self._done(self._ask(pureldap.LDAPStartTLSRequest())[0], "StartTLS")
            if self._ready:
                raise LdapError(f"{self._url}: says something in the clear behind StartTLS")
            self._frames = ber.Frames(_MESSAGE)
        try:
            context = ssl.create_default_context(cafile=options.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if options.starttls == "must":
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._socket = context.wrap_socket(self._socket, server_hostname=self._url.host)
        except ssl.SSLCertVerificationError as error:
            what = f"its certificate does not verify: {error.verify_message.rstrip('.')}"
            right = (
                'right would be a name that is in it, of an authority in ca_file; or starttls "must" (any certificate)'
            )
            raise LdapError(f"{self._url}: {what}; {right}") from None
        except (OSError, ValueError) as error:
            raise LdapError(f"{self._url}: no TLS: {error}") from None

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def thd_bind(self, dn: str, password: bytes) -> None:
        """
        Become somebody.

        @raise LdapError: the server does not take it.
        """
        if not password:
            raise LdapError(f"an empty password binds as nobody, not as {dn}")
        result, _ = self._ask(pureldap.LDAPBindRequest(dn=dn, auth=password))
        if result.resultCode == Code.INVALID_CREDENTIALS:
            raise LdapError(f"{self._url}: wrong name or password for {dn}", Code.INVALID_CREDENTIALS)
        self._done(result, f"bind as {dn}")

    def thd_search(
        self,
        base: str,
        scope: Scope = Scope.SUBTREE,
        what: filters.Filter = filters.EVERYTHING,
        attributes: Sequence[str] = (),
        most: int = 0,
    ) -> Iterator[Found]:
        """
        What a search finds, page by page.

        @param attributes: none named = all but operational ones.
        @param most: stop after so many; 0 = all.
        @raise LdapError: what comes is not all. A base that is not there finds nothing.
        """
        cookie, count = b"", 0
        while True:
            request = pureldap.LDAPSearchRequest(
                baseObject=octets(base), scope=scope.value, filter=_filter(what), attributes=list(attributes)
            )
            parts: list[Any] = [pureber.BERInteger(PAGE), pureber.BEROctetString(cookie)]
            control = (CONTROL.decode(), False, pureber.BERSequence(parts).toWire())
            answer, controls = self._sent(request, [control])
            result = None
            for message in answer:
                if isinstance(message, pureldap.LDAPSearchResultEntry):
                    yield text(message.objectName), _attributes(message)
                    count += 1
                    if count == most:
                        return
                elif not isinstance(message, pureldap.LDAPSearchResultReference):
                    result = message
            if result is None or result.resultCode == Code.NO_SUCH_OBJECT:
                return
            self._done(result, f"search below {base}")
            cookie = _cookie(controls)
            if not cookie:
                return

    def thd_add(self, dn: str, attributes: Mapping[str, Sequence[str]]) -> None:
        """Add an entry. @raise LdapError: refused."""
        pairs = [
            (
                pureldap.LDAPAttributeDescription(name),
                pureber.BERSet([pureldap.LDAPAttributeValue(octets(value)) for value in values]),
            )
            for name, values in attributes.items()
            if values
        ]
        self._done(self._ask(pureldap.LDAPAddRequest(entry=octets(dn), attributes=pairs))[0], f"add {dn}")

    def thd_modify(self, dn: str, changes: Sequence[Modification]) -> None:
        """Change an entry. @raise LdapError: refused."""
        steps = [
            pureber.BERSequence(
                [
                    pureber.BEREnumerated(one.change.value),
                    pureber.BERSequence(
                        [
                            pureldap.LDAPAttributeDescription(one.attribute),
                            pureber.BERSet([pureldap.LDAPAttributeValue(octets(value)) for value in one.values]),
                        ]
                    ),
                ]
            )
            for one in changes
        ]
        result, _ = self._ask(pureldap.LDAPModifyRequest(object=octets(dn), modification=steps))
        self._done(result, f"change {dn}")

    def thd_delete(self, dn: str) -> None:
        """Delete a leaf. @raise LdapError: refused."""
        self._done(self._ask(pureldap.LDAPDelRequest(entry=octets(dn)))[0], f"delete {dn}")

    def thd_rename(self, dn: str, rdn: str, above: str, keep: bool) -> None:
        """Give an entry another name. @raise LdapError: refused."""
        request = pureldap.LDAPModifyDNRequest(
            entry=octets(dn), newrdn=octets(rdn), deleteoldrdn=not keep, newSuperior=octets(above)
        )
        self._done(self._ask(request)[0], f"rename {dn}")

    def _done(self, result: Any, what: str) -> None:
        if result.resultCode != Code.SUCCESS:
            said = text(result.errorMessage or b"").strip()
            said = " ".join(said.split())[:300] if said else ""
            name = _NAMES.get(result.resultCode, f"result code {result.resultCode}")
            raise LdapError(f"{self._url}: {what}: {name}{f' ({said})' if said else ''}", result.resultCode)

    def _ask(self, operation: Any) -> tuple[Any, Any]:
        answer, controls = self._sent(operation, None)
        return list(answer)[-1], controls

    def _sent(self, operation: Any, controls: Any) -> tuple[list[Any], Any]:
        """All messages of the answer, the final one last, and its controls."""
        self._number += 1
        found: list[Any] = []
        try:
            self._socket.sendall(pureldap.LDAPMessage(operation, controls=controls, id=self._number).toWire())
            while True:
                while not self._ready:
                    data = self._socket.recv(65536)
                    if not data:
                        raise LdapError(f"{self._url}: hung up")
                    self._ready += self._frames.feed(data)
                message = decode.message(self._ready.pop(0))
                if message.id != self._number:
                    continue
                found.append(message.value)
                more = (pureldap.LDAPSearchResultEntry, pureldap.LDAPSearchResultReference)
                if not isinstance(message.value, more):
                    return found, message.controls
        except OSError as error:
            raise LdapError(f"{self._url}: no answer: {error.strerror or error}") from None
        except LdapError:
            raise
        except Exception as error:  # whatever ldaptor makes of a peer's octets
            raise LdapError(f"{self._url}: what it says is no LDAP: {type(error).__name__}") from None


_NAMES = {
    10: "it refers to another server",
    Code.NO_SUCH_OBJECT: "there is no such entry",
    17: "it does not know an attribute; is our schema loaded?",
    19: "not allowed there",
    20: "that value is there already",
    21: "not a value of that attribute's syntax; is our schema loaded?",
    Code.INSUFFICIENT_ACCESS: "not allowed for this identity",
    53: "the server does not want to",
    65: "not allowed by the object classes; is our schema loaded?",
    Code.EXISTS: "there is such an entry already",
}


def _cookie(controls: Any) -> bytes:
    for control in controls or ():
        if control[0] == CONTROL:
            sequence = pureber.berDecodeObject(pureber.BERDecoderContext(), control[2])[0]
            return bytes(sequence[1].value)
    return b""


def _attributes(found: Any) -> Attributes:
    return {text(kind).lower(): tuple(text(value) for value in values) for kind, values in found.attributes}


def _filter(what: filters.Filter) -> Any:
    """A filter as ldaptor has it: values stay values, whatever they hold."""
    match what:
        case filters.And(parts):
            return pureldap.LDAPFilter_and([_filter(part) for part in parts])
        case filters.Or(parts):
            return pureldap.LDAPFilter_or([_filter(part) for part in parts])
        case filters.Not(part):
            return pureldap.LDAPFilter_not(_filter(part))
        case filters.Present(attribute):
            return pureldap.LDAPFilter_present(attribute)
        case filters.Equal(attribute, value):
            return pureldap.LDAPFilter_equalityMatch(*_assertion(attribute, value))
        case filters.Ordered(attribute, value, least):
            kind = pureldap.LDAPFilter_greaterOrEqual if least else pureldap.LDAPFilter_lessOrEqual
            return kind(*_assertion(attribute, value))
        case filters.Substrings():
            parts_: list[Any] = []
            if what.initial:
                parts_.append(pureldap.LDAPFilter_substrings_initial(octets(what.initial)))
            parts_ += [pureldap.LDAPFilter_substrings_any(octets(one)) for one in what.middle]
            if what.final:
                parts_.append(pureldap.LDAPFilter_substrings_final(octets(what.final)))
            return pureldap.LDAPFilter_substrings(type=what.attribute, substrings=parts_)


def _assertion(attribute: str, value: str) -> tuple[Any, Any]:
    return pureldap.LDAPAttributeDescription(attribute), pureldap.LDAPAssertionValue(octets(value))
