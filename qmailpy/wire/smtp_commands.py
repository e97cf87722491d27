"""
The commands of SMTP (RFC 5321 s.4.1.1), STARTTLS (RFC 3207) and LMTP (RFC 2033) on the side of the server.

A command is a function of the session's state, its line, what is behind the verb, and the events it adds its own to.
Parts of L{qmailpy.wire.smtp}; DATA and BDAT are in L{qmailpy.wire.smtp_content}, AUTH in L{qmailpy.wire.smtp_auth}.
"""

from __future__ import annotations

from collections.abc import Callable

from qmailpy.values import Reply
from qmailpy.wire import smtp_replies as say
from qmailpy.wire.reply import encode
from qmailpy.wire.smtp_arguments import parameters, path
from qmailpy.wire.smtp_auth import auth
from qmailpy.wire.smtp_content import bdat, data_command
from qmailpy.wire.smtp_events import Event, Greeted, MailFrom, RcptTo, Reset, StartTls
from qmailpy.wire.smtp_fronts import etrn, xclient
from qmailpy.wire.smtp_state import MAIL_ASKED, RCPT_ASKED, TLS_ASKED, SmtpState

_HELO_OCTETS = 255
_VISIBLE = bytes(range(0x21, 0x7F))


def _ehlo(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    _hello(core, line, argument, events, True)


def _helo(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    _hello(core, line, argument, events, False)


def _hello(core: SmtpState, line: bytes, argument: bytes, events: list[Event], extended: bool) -> None:
    """RFC 5321 s.4.1.1.1. The name is a claim and goes to log and trace only: any visible ASCII will do."""
    name = argument.strip(b" ")
    if not name or len(name) > _HELO_OCTETS or name.translate(None, _VISIBLE):
        core.bad(line, say.HELO_NAME, events)
        return
    if core.helo:
        core.count_junk()
    core.helo = name.decode("ascii")
    core.extended = extended
    core.forget()
    core.send(core.service.hello() if extended else core.service.helo)
    events.append(Greeted(core.helo, extended))


def _mail(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    if not core.helo:
        core.bad(line, say.LHLO_FIRST if core.service.lmtp else say.HELO_FIRST, events)
        return
    if core.in_mail:
        core.bad(line, say.MAIL_TWICE, events)
        return
    service = core.service
    if core.messages >= service.limits.messages:
        core.send(encode(say.TOO_MANY_MESSAGES))
        core.end(say.TOO_MANY_MESSAGES)
        return
    utf8 = service.utf8 and not argument.isascii()
    found = path(argument, b"FROM:", sender=True, utf8=utf8)
    if found is None or isinstance(found, Reply):
        core.bad(line, found or say.MAIL_SYNTAX, events)
        return
    address, end = found
    if end == len(argument):
        event = MailFrom(address=address)
    else:
        fields = parameters(argument[end:], service.mail, service.limits)
        if isinstance(fields, Reply):
            core.bad(line, fields, events)
            return
        event = MailFrom(address=address, **fields)
    if utf8 and not event.smtputf8:
        core.bad(line, say.NEEDS_UTF8, events)
        return
    core.utf8 = event.smtputf8
    core.binary = event.body == "BINARYMIME"
    core.messages += 1
    core.asked = MAIL_ASKED
    events.append(event)


def _rcpt(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    if not core.in_mail:
        core.bad(line, say.MAIL_FIRST if core.helo else say.HELO_FIRST, events)
        return
    if core.chunks is not None:
        core.bad(line, say.NOT_NOW_BDAT, events)
        return
    found = path(argument, b"TO:", sender=False, utf8=core.utf8)
    if found is None or isinstance(found, Reply):
        core.refused = True
        core.bad(line, found or say.RCPT_SYNTAX, events)
        return
    address, end = found
    if end == len(argument):
        event = RcptTo(address=address)
    else:
        fields = parameters(argument[end:], core.service.rcpt, core.service.limits, utf8=core.utf8)
        if isinstance(fields, Reply):
            core.refused = True
            core.bad(line, fields, events)
            return
        event = RcptTo(address=address, **fields)
    core.asked = RCPT_ASKED
    events.append(event)


def _starttls(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    """RFC 3207 s.4. Not only behind EHLO: clients that do not ask first exist, and the state is lost anyway."""
    service = core.service
    if not service.starttls:
        core.bad(line, say.TLS_TWICE if service.secured else say.NOT_HERE, events)
    elif argument.strip(b" "):
        core.bad(line, say.NO_ARGUMENT, events)
    elif core.at < len(core.buffer):
        core.bad(line, say.TLS_INJECTED, events)
        core.end(say.TLS_INJECTED)
    else:
        core.forget()
        core.asked = TLS_ASKED
        events.append(StartTls())


def _rset(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    if argument.strip(b" "):
        core.bad(line, say.NO_ARGUMENT, events)
        return
    core.forget()
    core.send(say.RESET_OK)
    events.append(Reset())
    core.count_junk()


def _quit(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    if argument.strip(b" "):
        core.bad(line, say.NO_ARGUMENT, events)
        return
    core.send(encode(say.BYE))
    core.end(say.BYE)


def _noop(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    core.send(say.NOOP_OK)
    core.count_junk()


def _vrfy(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    core.send(say.VRFY)
    core.count_junk()


def _help(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    core.send(say.HELP)
    core.count_junk()


Command = Callable[[SmtpState, bytes, bytes, list[Event]], None]

COMMANDS: dict[bytes, Command] = {
    b"EHLO": _ehlo,
    b"HELO": _helo,
    b"MAIL": _mail,
    b"RCPT": _rcpt,
    b"DATA": data_command,
    b"BDAT": bdat,
    b"RSET": _rset,
    b"NOOP": _noop,
    b"QUIT": _quit,
    b"VRFY": _vrfy,
    b"HELP": _help,
    b"STARTTLS": _starttls,
    b"AUTH": auth,
    b"ETRN": etrn,
    b"XCLIENT": xclient,
}
LMTP_COMMANDS: dict[bytes, Command] = {
    **{verb: parser for verb, parser in COMMANDS.items() if verb not in (b"EHLO", b"HELO")},
    b"LHLO": _ehlo,
}
# Commands of SMTP that we know of and do not have.
KNOWN = frozenset((b"EXPN", b"TURN", b"SEND", b"SOML", b"SAML"))
# First words of other protocols.
FOREIGN = frozenset((b"GET", b"POST", b"PUT", b"HEAD", b"CONNECT", b"OPTIONS"))
