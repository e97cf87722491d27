"""
The directory's schema as one table: attributes with syntax, matching rules and meaning, and object classes.

Pure. From it come what L{schema} checks, what the embedded server says in its subschema entry, the LDIF for an OpenLDAP
server (L{subschema}) and the table in docs/directory.md. Those of qmail-ldap have qmail-ldap's OIDs, so that its data
fits. Ours are below L{ARC}: an arc that anybody may make from a UUID (X.667), so nobody else has it; who has a Private
Enterprise Number and wants its own arc puts it here, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

ARC = "2.25.147696107625339583302936510440026676232"
"""Below it: .1 attributes, .2 object classes. Numbers are never used again for anything else."""

QMAIL = "1.3.6.1.4.1.7914.1"
"""qmail-ldap's arc."""

_LDAP = "1.3.6.1.4.1.1466.115.121.1"


@frozen(kw_only=True)
class Syntax:
    """A syntax of RFC 4517 s.3.3, and the matching rules its attributes have here."""

    oid: str
    name: str
    equality: str
    ordering: str = ""
    substring: str = ""


TEXT = Syntax(
    oid=f"{_LDAP}.15",
    name="Directory String",
    equality="caseIgnoreMatch",
    substring="caseIgnoreSubstringsMatch",
)
EXACT_TEXT = Syntax(oid=f"{_LDAP}.15", name="Directory String", equality="caseExactMatch")
IA5 = Syntax(
    oid=f"{_LDAP}.26", name="IA5 String", equality="caseIgnoreIA5Match", substring="caseIgnoreIA5SubstringsMatch"
)
EXACT_IA5 = Syntax(oid=f"{_LDAP}.26", name="IA5 String", equality="caseExactIA5Match")
NUMBER = Syntax(oid=f"{_LDAP}.27", name="INTEGER", equality="integerMatch", ordering="integerOrderingMatch")
FLAG = Syntax(oid=f"{_LDAP}.7", name="Boolean", equality="booleanMatch")
TIME = Syntax(
    oid=f"{_LDAP}.24",
    name="Generalized Time",
    equality="generalizedTimeMatch",
    ordering="generalizedTimeOrderingMatch",
)
DN = Syntax(oid=f"{_LDAP}.12", name="DN", equality="distinguishedNameMatch")
OCTETS = Syntax(oid=f"{_LDAP}.40", name="Octet String", equality="octetStringMatch")
OID = Syntax(oid=f"{_LDAP}.38", name="OID", equality="objectIdentifierMatch")
PHONE = Syntax(
    oid=f"{_LDAP}.50",
    name="Telephone Number",
    equality="telephoneNumberMatch",
    substring="telephoneNumberSubstringsMatch",
)
JPEG = Syntax(oid=f"{_LDAP}.28", name="JPEG", equality="")


@frozen(kw_only=True)
class AttributeType:
    """An attribute (RFC 4512 s.4.1.2)."""

    name: str
    oid: str
    syntax: Syntax
    meaning: str  # for docs/directory.md and DESC
    single: bool = False
    ours: bool = True  # false: every LDAP server has it (RFC 4519, RFC 4524, RFC 2798, RFC 2307)
    operational: bool = False  # kept by the server: seen when asked for, written by nobody else


@frozen(kw_only=True)
class ObjectClass:
    """An object class (RFC 4512 s.4.1.1)."""

    name: str
    oid: str
    kind: str  # "STRUCTURAL", "AUXILIARY" or "ABSTRACT"
    meaning: str
    above: str = "top"
    must: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    ours: bool = True


def _qmail(
    number: int, name: str, syntax: Syntax, meaning: str, *, single: bool = False, group: bool = False
) -> AttributeType:
    branch = "3.1" if group else "2.1"
    return AttributeType(name=name, oid=f"{QMAIL}.{branch}.{number}", syntax=syntax, meaning=meaning, single=single)


def _own(
    number: int, name: str, syntax: Syntax, meaning: str, *, single: bool = True, operational: bool = False
) -> AttributeType:
    return AttributeType(
        name=name, oid=f"{ARC}.1.{number}", syntax=syntax, meaning=meaning, single=single, operational=operational
    )


def _known(oid: str, name: str, syntax: Syntax, meaning: str = "", *, single: bool = False) -> AttributeType:
    return AttributeType(name=name, oid=oid, syntax=syntax, meaning=meaning, single=single, ours=False)


ATTRIBUTES: tuple[AttributeType, ...] = (
    # What every server has, of which mail makes use
    _known("2.5.4.0", "objectClass", OID, "what kind of entry it is"),
    _known("0.9.2342.19200300.100.1.3", "mail", IA5, "the main address, one; a qmailUser and a qmailGroup have it"),
    _known("0.9.2342.19200300.100.1.1", "uid", TEXT, "the local part, as the entry's name"),
    _known("0.9.2342.19200300.100.1.25", "dc", IA5, "a domain, as its entry's name", single=True),
    _known("2.5.4.3", "cn", TEXT, "a person's name; the name of a plan, a server or a group"),
    _known("2.5.4.4", "sn", TEXT, "family name"),
    _known("2.5.4.35", "userPassword", OCTETS, "stored forms of the password; read by nobody"),
    _known("0.9.2342.19200300.100.1.37", "associatedDomain", IA5, "the domain's name; one", single=True),
    _known("1.3.6.1.1.1.1.3", "homeDirectory", EXACT_IA5, "kept for other programs", single=True),
    _known("2.5.4.13", "description", TEXT, "for people"),
    _known("2.5.4.31", "member", DN, "of a group: the name of an entry, as dnmember"),
    _known("2.16.840.1.113730.3.1.241", "displayName", TEXT, "for people", single=True),
    _known("2.5.4.42", "givenName", TEXT, "for people"),
    _known("2.5.4.20", "telephoneNumber", PHONE, "for people"),
    _known("0.9.2342.19200300.100.1.41", "mobile", PHONE, "for people"),
    _known("2.16.840.1.113730.3.1.39", "preferredLanguage", TEXT, "for people", single=True),
    _known("2.5.4.10", "o", TEXT, "organization"),
    _known("2.5.4.11", "ou", TEXT, "organizational unit"),
    _known("2.5.4.12", "title", TEXT, "for people"),
    _known("2.5.4.16", "postalAddress", TEXT, "for people"),
    _known("2.5.4.17", "postalCode", TEXT, "for people"),
    _known("2.16.840.1.113730.3.1.3", "employeeNumber", TEXT, "for people", single=True),
    _known("2.16.840.1.113730.3.1.4", "employeeType", TEXT, "for people"),
    _known("0.9.2342.19200300.100.1.60", "jpegPhoto", JPEG, "for people"),
    _known("1.3.6.1.4.1.250.1.57", "labeledURI", EXACT_TEXT, "for people"),
    # qmail-ldap's
    _qmail(1, "qmailUID", NUMBER, "kept for qmail-ldap", single=True),
    _qmail(2, "qmailGID", NUMBER, "kept for qmail-ldap", single=True),
    _qmail(
        3,
        "mailMessageStore",
        EXACT_IA5,
        "Maildir below HOME/mail; `example.org/joe/Maildir` unless set",
        single=True,
    ),
    _qmail(4, "mailAlternateAddress", IA5, "further addresses of the same mailbox or group"),
    _qmail(6, "mailHost", IA5, "the node that stores the mail; of a domain: for users without", single=True),
    _qmail(
        7,
        "mailForwardingAddress",
        IA5,
        "gets copies; with `deliveryMode` `forwardonly` or `nolocal` it gets all, and there is no mailbox",
    ),
    _qmail(8, "deliveryProgramPath", EXACT_IA5, "kept for qmail-ldap; programs are named in dot-qmail files"),
    _qmail(
        9,
        "qmailDotMode",
        IA5,
        "`dotonly` or `both`: the user's dot-qmail files decide; `ldaponly`, `ldapwithprog` and `none`: they are not"
        " looked at",
        single=True,
    ),
    _qmail(
        10,
        "deliveryMode",
        IA5,
        "`forwardonly`, `nolocal`: an alias; `noforward`: mailForwardingAddress is ignored; `reply`: mailReplyText is"
        " sent; `program`: as qmailDotMode `both`; `local`, `forward`, `noprogram`, `noreply`: nothing",
    ),
    _qmail(
        11,
        "mailReplyText",
        EXACT_TEXT,
        "what `deliveryMode` `reply` answers; header lines may come first, behind `%HEADER%`, of which Subject counts",
        single=True,
    ),
    _qmail(
        12,
        "accountStatus",
        IA5,
        "`active`; `nopop`: mail and submission, no fetching; `noaccess`: mail but no login; `disabled`: neither;"
        " `deleted`: as if unknown",
        single=True,
    ),
    _qmail(14, "qmailAccountPurge", NUMBER, "kept for qmail-ldap", single=True),
    _qmail(15, "mailQuotaSize", NUMBER, "most octets in the mailbox; 0 = no limit; absent: the plan's", single=True),
    _qmail(16, "mailQuotaCount", NUMBER, "most messages in the mailbox; likewise", single=True),
    _qmail(17, "mailSizeMax", NUMBER, "octets of the largest message to and from the user; likewise", single=True),
    _qmail(1, "dnmember", DN, "a member: the name of a user's, an alias's or a group's entry", group=True),
    _qmail(2, "rfc822member", IA5, "a member: an address, anybody's", group=True),
    _qmail(5, "membersonly", FLAG, "`TRUE`: as qmailPosters `members`", group=True, single=True),
    _qmail(11, "dnsender", DN, "the name of an entry that may write, whatever qmailPosters says", group=True),
    _qmail(12, "rfc822sender", IA5, "an address that may write, whatever qmailPosters says", group=True),
    # Ours
    _own(1, "mailCatchAllAddress", IA5, "who gets a domain's mail for unknown users"),
    _own(2, "qmailPlanName", TEXT, "the service plan: `cn` of a qmailPlan; of a domain: for users without"),
    _own(3, "qmailSendsADay", NUMBER, "recipients the user may write to in 24 hours; 0 = no limit"),
    _own(
        4,
        "qmailFeature",
        IA5,
        "what may be used: `pop3`, `imap`, `webmail`, `submission`, `forwarding`, `autoreply`, `programs`, `sms`;"
        " `none` alone for nothing; absent: everything",
        single=False,
    ),
    _own(5, "qmailSubfolders", FLAG, "`TRUE`: mail for `user+tag` goes to the folder `tag` when there is one"),
    _own(6, "qmailReplySubject", TEXT, "subject of the automatic answer; absent: made from the message's"),
    _own(7, "qmailReplyDays", NUMBER, "days until the same sender is answered again; 7 unless set"),
    _own(8, "qmailReplyBegin", TIME, "no automatic answer before"),
    _own(9, "qmailReplyEnd", TIME, "no automatic answer after"),
    _own(10, "popServer", IA5, "the node that serves the user's POP3; absent: mailHost"),
    _own(11, "smtpServer", IA5, "the node the user submits mail to; for people and their clients' setup"),
    _own(12, "qmailDomainQuota", NUMBER, "octets of all mailboxes of a domain together; 0 = no limit"),
    _own(13, "qmailDomainPlan", TEXT, "plans a domain's administrators may give to its users", single=False),
    _own(
        14,
        "qmailAdministers",
        IA5,
        "what the user administers: names of domains; `*` makes an operator, who may do everything",
        single=False,
    ),
    _own(15, "qmailPosters", IA5, "who may write to the group: `anyone`, `members`, `listed` or `domain`"),
    _own(16, "qmailGroupOwner", IA5, "gets the notices when a member cannot be reached; absent: the writer"),
    _own(17, "qmailServerRole", IA5, "what the server does: `store`, `pop`, `smtp`", single=False),
    _own(18, "qmailLastLogin", TIME, "when the user last logged in, to the hour", operational=True),
    _own(19, "qmailLastService", IA5, "by what: `pop3`, `submission`...", operational=True),
    _own(20, "qmailLastAddress", IA5, "from which IP address", operational=True),
)
"""All the server knows by name; others are kept as Directory Strings."""

BY_NAME: Mapping[str, AttributeType] = {one.name.lower(): one for one in ATTRIBUTES}

LIMITS = ("mailQuotaSize", "mailQuotaCount", "mailSizeMax", "qmailSendsADay", "qmailFeature")
"""What a plan or a domain gives to users that have none of their own."""

CLASSES: tuple[ObjectClass, ...] = (
    ObjectClass(name="top", oid="2.5.6.0", kind="ABSTRACT", meaning="", above="", must=("objectClass",), ours=False),
    ObjectClass(
        name="inetOrgPerson",
        oid="2.16.840.1.113730.3.2.2",
        kind="STRUCTURAL",
        meaning="a person (RFC 2798)",
        must=("cn", "sn"),
        may=(
            *("uid", "mail", "userPassword", "description", "displayName", "givenName", "telephoneNumber", "mobile"),
            *("preferredLanguage", "o", "ou", "title", "postalAddress", "postalCode", "employeeNumber"),
            *("employeeType", "jpegPhoto", "labeledURI"),
        ),
        ours=False,
    ),
    ObjectClass(
        name="organization",
        oid="2.5.6.4",
        kind="STRUCTURAL",
        meaning="the base (RFC 4519)",
        must=("o",),
        may=("description",),
        ours=False,
    ),
    ObjectClass(
        name="organizationalUnit",
        oid="2.5.6.5",
        kind="STRUCTURAL",
        meaning="where plans and servers are (RFC 4519)",
        must=("ou",),
        may=("description",),
        ours=False,
    ),
    ObjectClass(
        name="organizationalRole",
        oid="2.5.6.8",
        kind="STRUCTURAL",
        meaning="what a group is made of (RFC 4519)",
        must=("cn",),
        may=("description",),
        ours=False,
    ),
    ObjectClass(
        name="domain",
        oid="0.9.2342.19200300.100.4.13",
        kind="STRUCTURAL",
        meaning="what a domain is made of (RFC 4524)",
        must=("dc",),
        may=("description", "associatedDomain"),
        ours=False,
    ),
    ObjectClass(
        name="applicationProcess",
        oid="2.5.6.11",
        kind="STRUCTURAL",
        meaning="what cn=admin and cn=service are made of (RFC 4519)",
        must=("cn",),
        may=("description",),
        ours=False,
    ),
    ObjectClass(
        name="simpleSecurityObject",
        oid="0.9.2342.19200300.100.4.19",
        kind="AUXILIARY",
        meaning="has a password (RFC 4524)",
        must=("userPassword",),
        ours=False,
    ),
    ObjectClass(
        name="qmailUser",
        oid=f"{QMAIL}.2.2.1",
        kind="AUXILIARY",
        meaning="a mailbox or an alias",
        must=("mail",),
        may=(
            *("uid", "userPassword", "homeDirectory", "mailAlternateAddress", "qmailUID", "qmailGID"),
            *("mailMessageStore", "mailHost", "mailForwardingAddress", "deliveryProgramPath", "qmailDotMode"),
            *("deliveryMode", "mailReplyText", "accountStatus", "qmailAccountPurge", *LIMITS, "qmailPlanName"),
            *("qmailSubfolders", "qmailReplySubject", "qmailReplyDays", "qmailReplyBegin", "qmailReplyEnd"),
            *("popServer", "smtpServer", "qmailAdministers", "qmailLastLogin", "qmailLastService"),
            "qmailLastAddress",
        ),
    ),
    ObjectClass(
        name="qmailGroup",
        oid=f"{QMAIL}.3.2.1",
        kind="AUXILIARY",
        meaning="an address that stands for its members",
        must=("mail",),
        may=(
            *("mailAlternateAddress", "dnmember", "rfc822member", "member", "membersonly", "dnsender"),
            *("rfc822sender", "qmailPosters", "qmailGroupOwner", "accountStatus"),
        ),
    ),
    ObjectClass(
        name="qmailDomain",
        oid=f"{ARC}.2.1",
        kind="AUXILIARY",
        meaning="a domain whose users are here",
        must=("associatedDomain",),
        may=(
            *("accountStatus", "mailCatchAllAddress", "mailHost", "popServer", "smtpServer", *LIMITS),
            *("qmailPlanName", "qmailSubfolders", "qmailDomainQuota", "qmailDomainPlan"),
        ),
    ),
    ObjectClass(
        name="qmailPlan",
        oid=f"{ARC}.2.2",
        kind="STRUCTURAL",
        meaning="a class of service",
        must=("cn",),
        may=("description", *LIMITS, "qmailSubfolders"),
    ),
    ObjectClass(
        name="qmailServer",
        oid=f"{ARC}.2.3",
        kind="STRUCTURAL",
        meaning="a node, by its host name",
        must=("cn",),
        may=("description", "qmailServerRole"),
    ),
)
