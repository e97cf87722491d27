"""
The shape of the configuration of conversions: which mail is converted (C{[[conversion]]} in qmailpy.toml), and how
(conversions.toml beside it). docs/conversion.md tells both for people.

Patterns are those of file names: C{*} for anything, C{?} for one character, C{[a-z]}; the case does not matter. A list
of patterns that is empty fits everything.
"""

from __future__ import annotations

from attrs import Factory, frozen

ACTIONS = (
    "command",
    "delete",
    "keep",
    "hold",
    "return",
    "discard",
    "disclaimer",
    "replace",
    "alternative",
    "strip",
    "utf8",
    "journal",
)
"""What C{[[entry]] action} may be; from "disclaimer" on built in (qmailpy.channels.conversions.builtin)."""


@frozen(kw_only=True)
class ConversionConfig:
    """[[conversion]]: mail that goes through a conversion channel; the first table that fits a recipient decides."""

    source: str = ""  # channel the mail comes from; "" = any but those of kind conversion
    destination: str = ""  # channel it is for; "" = any of kind smtp, lmtp, local and the like: not those that pass on
    sender: tuple[str, ...] = ()  # patterns for the envelope sender; "<>" is the null sender
    recipient_domain: str = ""  # "host.example", ".example" (below it), "" = any
    min_octets: int = 0  # smaller messages do not fit
    max_octets: int = 0  # larger ones do not; 0 = there is no such limit
    partial: bool = False  # only pieces of messages (message/partial), and what is too large to be looked at
    channel: str = ""  # of kind conversion or defragment; "" = the first of kind conversion
    convert: bool = True  # false: what fits is not converted, whatever later tables say


@frozen(kw_only=True)
class EntryConfig:
    """[[entry]] of conversions.toml: for a part of a message, or the message as a whole, what is done with it."""

    action: str  # see ACTIONS
    name: str = ""  # for the log and "qmailpy test conversion"
    in_channel: str = ""  # pattern: where the mail came from; "" = any
    out_channel: str = ""  # pattern: the channel it is for
    sender: tuple[str, ...] = ()  # patterns for the envelope sender; "<>" is the null sender
    recipient: tuple[str, ...] = ()  # patterns for the recipient's address
    type: tuple[str, ...] = ()  # "text/html", "application/*"; empty = any but multiparts and enclosed messages
    file: tuple[str, ...] = ()  # patterns for the file name: "*.exe"
    disposition: str = ""  # "attachment" or "inline"; "" = any
    min_octets: int = 0  # of the part as it stands in the message; of the message where whole is true
    max_octets: int = 0  # 0 = there is no such limit
    body: bool = False  # only the text that is read first, in each of its alternatives
    signed: bool = False  # parts of what is signed or encrypted too, whose signature is worthless then
    whole: bool = False  # the message as a whole
    go_on: bool = False  # entries behind this one are looked at as well
    tag: str = ""  # CONVERSION_TAG for a command
    command: tuple[str, ...] = ()  # program (an absolute path) and arguments; $INPUT_FILE and so on are put in
    timeout_s: float = 60.0  # a command that runs longer is killed, and the mail tried again
    memory_octets: int = 536_870_912  # address space of the command
    output_octets: int = 104_857_600  # largest file it may write
    out_type: str = ""  # type of what it wrote: "application/pdf"; "" = as it was
    out_name: str = ""  # file name of it; "" = as it was
    out_disposition: str = ""  # "attachment" or "inline"; "" = as it was
    text: str = ""  # disclaimer, notice of replace, or why the mail is held or returned
    text_file: str = ""  # a file with it, relative to the directory of conversions.toml
    html: str = ""  # disclaimer for HTML; "" = made of the text
    html_file: str = ""
    address: str = ""  # journal: where the copies go


@frozen(kw_only=True)
class StructureConfig:
    """[limits] of conversions.toml: how far the structure of a message is looked at."""

    depth: int = 50  # multiparts and enclosed messages in each other
    parts: int = 10_000
    header_octets: int = 262_144
    part_octets: int = 3_145_728  # larger parts are not given to what is built in
    beyond: str = (
        "hold"  # mail beyond a limit that an entry was to look for something in: "hold", "return", or "pass" it
    )
    broken: str = "pass"  # mail whose structure is malformed: "pass" it on as far as it can be read, or "hold" it


@frozen(kw_only=True)
class ConversionsConfig:
    """conversions.toml."""

    limits: StructureConfig = Factory(StructureConfig)
    entries: tuple[EntryConfig, ...] = ()
