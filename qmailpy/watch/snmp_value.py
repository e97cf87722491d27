"""Values of SNMP objects, in the words of net-snmp's pass_persist (snmpd.conf(5))."""

from __future__ import annotations

from attrs import frozen

Oid = tuple[int, ...]

_TEXT = 255  # octets of an SnmpAdminString


@frozen
class Value:
    """What an object has, in the words of net-snmp's pass_persist."""

    kind: str  # "integer", "gauge", "counter", "timeticks", "string" or "objectid"
    text: str


def counter(value: float) -> Value:
    """A Counter32, which wraps."""
    return Value("counter", str(max(0, int(value)) % (1 << 32)))


def gauge(value: float) -> Value:
    """A Gauge32, which sticks to its ends; Stored may be below 0 for a while (mission C6)."""
    return Value("gauge", str(min(max(0, int(value)), (1 << 32) - 1)))


def interval(seconds: float) -> Value:
    """A TimeInterval."""
    return Value("integer", str(min(max(0, int(seconds * 100)), (1 << 31) - 1)))


def ticks(seconds: float) -> Value:
    """A TimeStamp: what sysUpTime was then; 0 for before the agent's start."""
    return Value("timeticks", str(max(0, int(seconds * 100)) % (1 << 32)))


def text(value: str) -> Value:
    """An SnmpAdminString: one line of at most 255 octets of UTF-8."""
    line = "".join(char if char.isprintable() else "?" for char in value)
    return Value("string", line.encode("utf-8", "replace")[:_TEXT].decode("utf-8", "ignore"))


def integer(value: int) -> Value:
    """An INTEGER."""
    return Value("integer", str(value))


def name_of(value: Oid) -> Value:
    """An OBJECT IDENTIFIER."""
    return Value("objectid", "." + ".".join(map(str, value)))
