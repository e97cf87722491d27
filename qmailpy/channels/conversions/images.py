"""
Pictures without what cameras and programs add to them: place, time, owner, software. The picture itself is not touched.

JPEG: the segments APP1 (Exif, XMP), APP13 (IPTC) and COM go; the orientation stays, in a small APP1 of its own, since
the picture would be shown lying on its side. PNG: the chunks tEXt, zTXt, iTXt, eXIf and tIME go.
"""

from __future__ import annotations

import struct

_PNG = b"\x89PNG\r\n\x1a\n"
_TELLING = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME"})
_ORIENTATION = 0x0112


def stripped(data: bytes) -> bytes | None:
    """
    The picture without its metadata.

    @return: C{None} when there is none, or it cannot be told.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    return _png(data) if data.startswith(_PNG) else None


def _jpeg(data: bytes) -> bytes | None:
    kept, at, orientation, found = [], 2, 0, False
    while True:
        if len(data) < at + 4 or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a fill octet
            at += 1
            continue
        if marker == 0xDA:  # the picture begins
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data) or end < at + 4:
            return None
        if marker in (0xE1, 0xED, 0xFE):
            found = True
            if data.startswith(b"Exif\0\0", at + 4):
                orientation = orientation or _orientation(data[at + 10 : end])
        else:
            kept.append(data[at:end])
        at = end
    if not found:
        return None
    if orientation > 1:
        tiff = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", _ORIENTATION, 3, 1, orientation, 0, 0)
        segment = b"Exif\0\0" + tiff
        # Behind APP0, which JFIF wants to be the first.
        place = 1 if kept and kept[0][1] == 0xE0 else 0
        kept.insert(place, b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment)
        if _same(data, kept, at):
            return None
    return b"\xff\xd8" + b"".join(kept) + data[at:]


def _same(data: bytes, kept: list[bytes], at: int) -> bool:
    """Whether it has been here before."""
    return data[2:at] == b"".join(kept)


def _orientation(tiff: bytes) -> int:
    """The Exif orientation, 1 to 8; 0 when there is none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 10:
        return 0
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return 0
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, at)
        if tag == _ORIENTATION and kind == 3:
            return int(value) if 1 <= value <= 8 else 0
    return 0


def _png(data: bytes) -> bytes | None:
    kept, at, found = [data[:8]], 8, False
    while at < len(data):
        if len(data) < at + 12:
            return None
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if end > len(data):
            return None
        if kind in _TELLING:
            found = True
        else:
            kept.append(data[at:end])
        at = end
        if kind == b"IEND":
            kept.append(data[at:])
            break
    return b"".join(kept) if found else None
