"""
The original recipient of a message: ORCPT (RFC 3461 s.4.2) with the address type C{utf-8} of RFC 6533 s.3.

In our hands it is C{TYPE;ADDRESS}, decoded. On the wire an address of the type C{utf-8} has C{\\x{E4}} for what its
form cannot hold: C{utf-8-addr-unitext} has UTF-8 as it is and needs SMTPUTF8, C{utf-8-addr-xtext} is US-ASCII.
"""

from __future__ import annotations

import re

ORCPT_CHARACTERS = 500
"""RFC 3461 s.4.2."""

_TYPE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,40}")  # an atom
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")
_UNITEXT = re.compile(r"(?:[!-*,-<>-~\x80-\U0010ffff]|\+[0-9A-F]{2})+")
_HEXCHAR = re.compile(rb"\+([0-9A-F]{2})")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffd]")
_NOT_XTEXT = re.compile(r"[^!-*,-<>-\[\]-~]")
_NOT_UNITEXT = re.compile(r"[^!-*,-<>-\[\]-~\xa0-\u2027\u202a-\U0010ffff]")


def parse_orcpt(value: str, *, utf8: bool = False) -> str | None:
    """
    The value of an ORCPT parameter, decoded; C{None} when it is none, or holds controls.

    @param value: UTF-8 in it is decoded already.
    @param utf8: the transaction has SMTPUTF8, so that there may be some.
    """
    kind, sign, text = value.partition(";")
    form = _UNITEXT if utf8 and kind.lower() == "utf-8" else _XTEXT
    if not sign or len(value) > ORCPT_CHARACTERS or _TYPE.fullmatch(kind) is None or form.fullmatch(text) is None:
        return None
    try:
        address = _HEXCHAR.sub(lambda found: bytes([int(found[1], 16)]), text.encode()).decode()
        if kind.lower() == "utf-8":
            address = _EMBEDDED.sub(lambda found: chr(int(found[1], 16)), address)
        elif not address.isascii():
            return None
    except ValueError:  # of octets that are no UTF-8, of numbers beyond Unicode
        return None
    return None if _CONTROLS.search(address) else f"{kind};{address}"


def emit_orcpt(orcpt: str, *, utf8: bool = False) -> bytes:
    """
    A decoded ORCPT as the value of a parameter; C{b""} when it cannot be one.

    @param utf8: the transaction has SMTPUTF8.
    """
    kind, sign, address = orcpt.partition(";")
    if not sign or not address or _TYPE.fullmatch(kind) is None:
        return b""
    if kind.lower() == "utf-8":
        text = (_NOT_UNITEXT if utf8 else _NOT_XTEXT).sub(_embedded, address).encode("utf-8", "replace")
    else:
        text = xtext(address)
    value = kind.encode("ascii") + b";" + text
    return value if len(value) <= ORCPT_CHARACTERS else b""


def xtext(text: str) -> bytes:
    """A value as RFC 3461 s.4 has it in parameters; what is beyond ASCII goes as its UTF-8 octets."""
    return b"".join(
        b"%c" % octet if 33 <= octet <= 126 and octet not in b"+=" else b"+%02X" % octet
        for octet in text.encode("utf-8", "replace")
    )


def unicode_xtext(address: str) -> str:
    """C{utf-8-addr-xtext}: printable US-ASCII without blanks (RFC 6533 s.3)."""
    return _NOT_XTEXT.sub(_embedded, address)


def _embedded(found: re.Match[str]) -> str:
    return f"\\x{{{ord(found[0]):02X}}}"
