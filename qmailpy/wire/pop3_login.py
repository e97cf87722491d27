"""
POP3 commands of the AUTHORIZATION state (RFC 1939 s.4), and those that mean something before a login: C{(core, line,
argument, events)}, called by L{qmailpy.wire.pop3_commands}.
"""

from __future__ import annotations

from ipaddress import ip_address

from qmailpy.wire import sasl
from qmailpy.wire.pop3_events import Event, Fronted, LoginAsked, LoginFailed, LoginProven, SecretAsked, TlsAsked
from qmailpy.wire.pop3_message import END
from qmailpy.wire.pop3_state import ASKED_LOGIN, ASKED_SECRET, ASKED_TLS, Pop3State

_TLS_FIRST = "[AUTH] Passwords are taken under TLS only: use STLS"
_CANCELLED = "Authentication cancelled"
_LANGUAGES = (b"EN", b"I-DEFAULT", b"*")


def capa(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    """RFC 2449 s.5."""
    core.send(
        core.service.capabilities(
            entered=core.entered,
            secure=core.secure,
            plain=core.passwords and not core.entered,
            mechanisms=core.mechanisms,
        )
    )


def stls(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    """RFC 2595 s.4: TLS, unless something came behind the command that must not be under it."""
    if core.secure or not core.service.stls:
        core.bad(line, "TLS is on already" if core.secure else "TLS is not to be had", events)
    elif core.utf8:
        core.bad(line, "STLS comes before UTF8", events)  # RFC 6856 s.2.1
    elif core.at < len(core.buffer):
        core.error("Octets in clear behind STLS")
        core.finish("octets in clear behind STLS")
    else:
        core.ok("Begin TLS")
        core.asked = ASKED_TLS
        events.append(TlsAsked())


def user(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    """The first half of a login; passwords in clear are for nobody to hear."""
    if not core.passwords:
        core.bad(line, _TLS_FIRST, events)
        return
    login = _text(argument)
    if not login:
        core.bad(line, "A mailbox name is wanted", events)
        return
    core.user = login
    core.ok("Password, please")


def password(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    """The second half: straight behind USER only."""
    user = core.user
    if user is None:
        core.bad(line, "USER first", events)
        return
    # RFC 1939 s.7: all behind the first blank is the password, blanks included.
    core.asked = ASKED_LOGIN
    core.mechanism = ""
    events.append(LoginAsked(login=user, password=argument))


def auth(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    """RFC 5034."""
    words = argument.split(b" ")
    names = core.mechanisms
    if not words[0]:
        # Before RFC 5034 this listed the mechanisms; clients that ask so are still about.
        core.send(b"+OK Mechanisms\r\n" + "".join(f"{name}\r\n" for name in names).encode() + END)
        return
    name = words[0].decode("ascii", "replace").upper()
    if len(words) > 2 or name not in names:
        known = not core.passwords and name in ("PLAIN", "LOGIN")
        core.bad(line, _TLS_FIRST if known else "No such mechanism", events)
        return
    initial = None
    if len(words) == 2:
        initial = sasl.decode_initial(words[1])
        if initial is None:
            core.bad(line, "An initial response in base64 is wanted", events)
            return
    machine = sasl.server(name, core.bindings)
    if machine is None:
        core.bad(line, "No such mechanism", events)
        return
    core.machine, core.mechanism = machine, name
    step(core, machine.start(initial), events)


def response(core: Pop3State, machine: sasl.Machine, line: bytes, events: list[Event]) -> None:
    """A line of the client's in an exchange."""
    if line == b"*":
        core.machine = None
        core.bad(b"AUTH", _CANCELLED, events)
        return
    octets = sasl.decode(line)
    if octets is None:
        core.machine = None
        core.bad(b"AUTH", "A response in base64 is wanted", events)
    else:
        step(core, machine.respond(octets), events)


def step(core: Pop3State, found: sasl.Step, events: list[Event]) -> None:
    """What one step of an exchange asks for."""
    if isinstance(found, sasl.Challenge):
        core.send(b"+ %b\r\n" % sasl.encode(found.octets))
    elif isinstance(found, sasl.SecretWanted):
        core.asked = ASKED_SECRET
        events.append(SecretAsked(login=found.login))
    elif isinstance(found, sasl.CheckPassword):
        core.asked = ASKED_LOGIN
        events.append(
            LoginAsked(login=found.login, password=found.password, authzid=found.authzid, mechanism=core.mechanism)
        )
    elif isinstance(found, sasl.Proven):
        core.asked = ASKED_LOGIN
        events.append(LoginProven(login=found.login, authzid=found.authzid, mechanism=core.mechanism))
    else:
        core.asked = ASKED_LOGIN
        events.append(
            LoginFailed(login=found.login, mechanism=core.mechanism, reason=found.reason, malformed=found.malformed)
        )


def xclient(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    """
    Who is behind a proxy, as Dovecot's say it: C{XCLIENT ADDR=192.0.2.1 PORT=4711 SESSION=x TTL=5}, of which ADDR and
    TTL count. A session that is not offered it may be anybody's: its word counts for nothing.
    """
    if not core.front:
        core.bad(line, "XCLIENT is not for you", events)
        return
    said = {name.upper(): value for name, _, value in (word.partition(b"=") for word in argument.split())}
    ttl = said.get(b"TTL", b"0")
    ip = _ip(said.get(b"ADDR", b""))
    if (b"ADDR" in said and not ip) or not ttl.isdigit() or len(ttl) > 3:
        core.bad(line, "Syntax: XCLIENT ADDR=address TTL=number", events)
        return
    core.ok("Understood")
    events.append(Fronted(ip, int(ttl)))


def utf8(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    """RFC 6856 s.2: names and passwords are in UTF-8 in any case."""
    core.utf8 = True
    core.ok("UTF8 it is")


def lang(core: Pop3State, line: bytes, argument: bytes, events: list[Event]) -> None:
    """RFC 6856 s.3: we speak one language."""
    if not argument:
        core.send(b"+OK Languages\r\nen English\r\n.\r\n")
    elif argument.upper() in _LANGUAGES:
        core.ok("en English it is")
    else:
        core.bad(line, "No such language", events)


def _ip(octets: bytes) -> str:
    """An IP address in the form people write; "" when it is none."""
    try:
        address = ip_address(octets.decode("ascii"))
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)


def _text(octets: bytes) -> str:
    """A name as text; "" when it is none."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() else ""
