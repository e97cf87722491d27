"""
Mail loops through mailboxes that forward, told by the Delivered-To fields that each delivery adds (as qmail does).
"""

from __future__ import annotations

_NAME = b"delivered-to:"


def delivered_to(header: bytes) -> frozenset[str]:
    """
    The addresses a message says it was delivered to.

    @param header: the header section, with CRLF or LF line ends.
    @return: the values of the Delivered-To fields in lower case, unfolded, without blanks around.
    """
    if _NAME not in header.lower():
        return frozenset()
    found = set()
    lines = header.split(b"\n")
    for at, line in enumerate(lines):
        if line[: len(_NAME)].lower() != _NAME:
            continue
        value = [line[len(_NAME) :]]
        for more in lines[at + 1 :]:
            if not more.startswith((b" ", b"\t")):
                break
            value.append(more)
        found.add(b" ".join(b" ".join(value).split()).decode("utf-8", "replace").lower())
    return frozenset(found)
