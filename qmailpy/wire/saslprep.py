"""
SASLprep (RFC 4013): how names and passwords are written before they are compared or hashed.

It is a profile of stringprep (RFC 3454) and so of Unicode 3.2: what was assigned later is allowed in what a client
sends (a query) and not in what is stored.
"""

from __future__ import annotations

import stringprep
import unicodedata

_PROHIBITED = (  # RFC 4013 s.2.3
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str, *, stored: bool = False) -> str:
    """
    The prepared form of a name or password.

    @param stored: it is to be kept, so that code points Unicode 3.2 does not know are refused (RFC 3454 s.7).
    @raise ValueError: it holds characters that are not allowed, or none at all.
    """
    if text.isascii():
        if not text or not text.isprintable():
            raise ValueError("a control character, or nothing")
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    result = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not result:
        raise ValueError("nothing is left")
    for char in result:
        if any(table(char) for table in _PROHIBITED):
            raise ValueError("a character that is not allowed")
        if stored and stringprep.in_table_a1(char):
            raise ValueError("a character Unicode 3.2 does not have")
    # RFC 3454 s.6: text with a right-to-left character has no left-to-right one, and begins and ends with such.
    if any(stringprep.in_table_d1(char) for char in result):
        ends = stringprep.in_table_d1(result[0]) and stringprep.in_table_d1(result[-1])
        if not ends or any(stringprep.in_table_d2(char) for char in result):
            raise ValueError("directions are mixed")
    return result
