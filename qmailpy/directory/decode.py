"""ldaptor's decoder for LDAP messages, made strict."""

from __future__ import annotations

from typing import Any

from ldaptor.protocols import pureber, pureldap

from qmailpy.directory import ber


class _Strict(pureber.BERDecoderContext):  # type: ignore[misc]  # ldaptor has no types
    """
    The last resort of every context: an element that none of them knows.

    ldaptor's own prints a line to standard output for each one, of which a message may have thousands, and goes on.
    """

    def lookup_id(self, id: int) -> Any:  # noqa: A002 - ldaptor's name for it
        found = super().lookup_id(id)
        if found is None:
            raise ber.BadMessage("an element of a kind we do not know")
        return found


_STRICT = _Strict()
_CONTEXT = pureldap.LDAPBERDecoderContext_TopLevel(
    inherit=pureldap.LDAPBERDecoderContext_LDAPMessage(
        fallback=pureldap.LDAPBERDecoderContext(fallback=_STRICT),
        inherit=pureldap.LDAPBERDecoderContext(fallback=_STRICT),
    ),
    fallback=_STRICT,
)
_PASSWORD = _Strict(inherit=pureldap.LDAPBERDecoderContext_LDAPPasswordModifyRequest(fallback=_STRICT, inherit=_STRICT))


def message(octets: bytes) -> Any:
    """
    A whole message as ldaptor's C{LDAPMessage}.

    @raise Exception: L{ber.BadMessage}, or whatever ldaptor raises for octets that are none.
    """
    ber.check(octets)
    found = pureber.berDecodeObject(_CONTEXT, octets)[0]
    if not isinstance(found, pureldap.LDAPMessage):
        raise ber.BadMessage("not an LDAP message")
    return found


def password_change(octets: bytes) -> Any:
    """The parts of an RFC 3062 request's value. @raise Exception: as L{message}."""
    ber.check(octets)
    return pureber.berDecodeObject(_PASSWORD, octets)[0]
