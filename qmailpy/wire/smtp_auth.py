"""
The authentication exchange of an SMTP session, on the side of the server (RFC 4954 s.4).

Led by a machine of L{qmailpy.wire.sasl}; only what it cannot know is asked (L{AuthStep}). While it is under way every
line is an answer to it. Parts of L{qmailpy.wire.smtp}.
"""

from __future__ import annotations

from qmailpy.values import Reply
from qmailpy.wire import sasl
from qmailpy.wire import smtp_replies as say
from qmailpy.wire.smtp_events import AuthStep, Event
from qmailpy.wire.smtp_state import AUTH_ASKED, SmtpState

ANSWER_OCTETS = sasl.LINE_OCTETS + 2
"""A line of an exchange, with its end."""


def auth(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    """AUTH. The line is logged without what may be a password."""
    service = core.service
    name, sign, text = argument.strip(b" ").partition(b" ")
    line = b"AUTH " + name if name.isalnum() or b"-" in name else b"AUTH"
    initial = sasl.decode_initial(text) if sign else None
    machine: sasl.Machine | None = None
    if not service.mechanisms:
        refusal = say.TLS_FIRST if service.auth_secured else say.NOT_HERE
    elif not core.extended:
        refusal = say.LHLO_FIRST if service.lmtp else say.EHLO_FIRST
    elif core.authenticated:
        refusal = say.AUTH_TWICE
    elif core.in_mail:
        refusal = say.NOT_NOW
    elif not name:
        refusal = say.AUTH_SYNTAX
    elif name.decode("ascii", "replace").upper() not in service.mechanisms:
        refusal = say.AUTH_UNKNOWN
    elif sign and initial is None:
        refusal = say.AUTH_BASE64
    else:
        machine = sasl.server(name.decode("ascii"), core.bindings())
        refusal = say.AUTH_UNKNOWN
    if machine is None:
        core.bad(line, refusal, events)
    else:
        core.exchange = machine
        advance(core, machine.start(initial), events)
    core.hide = True  # a client that does not listen may send its password as if it were a command


def auth_answer(core: SmtpState, line: bytes, events: list[Event]) -> None:
    """A line of the client in the exchange."""
    octets = sasl.decode(line)
    if line == b"*":
        give_up(core, say.AUTH_CANCELLED, events)
    elif octets is None:
        give_up(core, say.AUTH_BASE64, events)
    elif core.exchange is not None:
        advance(core, core.exchange.respond(octets), events)


def give_up(core: SmtpState, reply: Reply, events: list[Event]) -> None:
    """The exchange is over without a result. Nobody is asked, and it is an error of the client."""
    core.exchange = None
    core.hide = False
    core.bad(b"AUTH", reply, events)
    core.hide = True


def advance(core: SmtpState, step: sasl.Step, events: list[Event]) -> None:
    """The exchange has come to its next step: for the client to answer, or for others to decide."""
    if isinstance(step, sasl.Challenge):
        core.send(b"334 %b\r\n" % sasl.encode(step.octets))
    else:
        core.asked = AUTH_ASKED
        events.append(AuthStep(step))
