"""
Subaddresses and folders: C{user+tag} goes to the folder C{tag} of the user's Maildir when there is one.

A Maildir++ folder is the directory C{.tag} within the Maildir, a Maildir itself; a dot within its name makes a folder
in a folder (C{user+lists.twisted}: C{.lists.twisted}). Characters beyond ASCII are written in modified UTF-7 (RFC 3501
s.5.1.3), as IMAP servers do. The case does not matter unless there are folders that differ in nothing else.
"""

from __future__ import annotations

import base64
import re

from qmailpy.disk.files import Files

TAG_OCTETS = 200
_PLAIN = re.compile(r"[\x20-\x25\x27-\x7e]*")


def folder_name(tag: str) -> str:
    """
    The directory that the folder of a subaddress is.

    @return: "" when it can be none: empty, hidden or climbing names, slashes, control characters, too long.
    """
    if not tag or "/" in tag or not tag.isprintable() or any(not part for part in tag.split(".")):
        return ""
    name = "." + modified_utf7(tag)
    return name if len(name) <= TAG_OCTETS else ""


def modified_utf7(text: str) -> str:
    """A mailbox name as IMAP writes it (RFC 3501 s.5.1.3)."""
    if _PLAIN.fullmatch(text):
        return text
    made: list[str] = []
    run: list[str] = []

    def end() -> None:
        if run:
            octets = base64.b64encode("".join(run).encode("utf-16-be")).decode().rstrip("=")
            made.append("&" + octets.replace("/", ",") + "-")
            run.clear()

    for character in text:
        if " " <= character <= "~":
            end()
            made.append("&-" if character == "&" else character)
        else:
            run.append(character)
    end()
    return "".join(made)


def thd_folder(files: Files, maildir: str, tag: str) -> str:
    """
    The directory below a Maildir that mail with a subaddress goes to; "" = the Maildir itself. Blocks.

    @param maildir: its path.
    """
    name = folder_name(tag)
    if not name:
        return ""
    if files.exists(f"{maildir}/{name}/cur"):
        return name
    wanted = name.lower()
    alike = sorted(one for one in files.scan(maildir) if one.lower() == wanted)
    return next((one for one in alike if files.exists(f"{maildir}/{one}/cur")), "")
