"""
The command lines of a client for one transaction: what each says depends on what the peer offers (RFC 1870, RFC 3030,
RFC 3461, RFC 6152, RFC 6531, RFC 8689); and AUTH (RFC 4954 s.4).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from qmailpy.wire.client_events import Transaction
from qmailpy.wire.client_options import options
from qmailpy.wire.client_path import path, wished
from qmailpy.wire.orcpt import xtext
from qmailpy.wire.sasl_client import Machine


def mail_command(transaction: Transaction, extensions: Mapping[str, str], *, esmtp: bool) -> bytes:
    """
    MAIL, with its CRLF.

    @param extensions: of the peer, as of C{SmtpClient.extensions}.
    @param esmtp: the peer has taken EHLO.
    """
    line = b"MAIL FROM:" + path(transaction.sender)
    if "SIZE" in extensions:
        line += b" SIZE=%d" % transaction.size
    if transaction.binary:
        line += b" BODY=BINARYMIME"
    elif transaction.eight_bit and "8BITMIME" in extensions:
        line += b" BODY=8BITMIME"
    if esmtp:
        line += options(transaction, extensions)
    if transaction.utf8 and "SMTPUTF8" in extensions:
        line += b" SMTPUTF8"
    if transaction.require_tls and "REQUIRETLS" in extensions:
        line += b" REQUIRETLS"  # RFC 8689 s.2
    if "DSN" in extensions:
        if transaction.ret:
            line += b" RET=" + transaction.ret.encode("ascii")
        if transaction.envid:
            line += b" ENVID=" + xtext(transaction.envid)
    return line + b"\r\n"


def rcpt_command(transaction: Transaction, index: int, extensions: Mapping[str, str]) -> bytes:
    """RCPT for the recipient at C{index}, with its CRLF."""
    line = b"RCPT TO:" + path(transaction.recipients[index])
    if transaction.wishes and "DSN" in extensions:
        line += wished(transaction.wishes[index], utf8=transaction.utf8 and "SMTPUTF8" in extensions)
    return line + b"\r\n"


def auth_command(machine: Machine) -> bytes:
    """AUTH, with its CRLF and, where the client speaks first, what it says; that is said then."""
    initial, machine.initial = machine.initial, None
    line = b"AUTH " + machine.name.encode("ascii")
    if initial is not None:
        line += b" " + (base64.b64encode(initial) or b"=")
    return line + b"\r\n"


def auth_challenge(machine: Machine, text: str) -> bytes | None:
    """The server's next message in the text of a 334; C{None} when it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b"?" if machine.name == "LOGIN" else None  # LOGIN's prompts are read by nobody
