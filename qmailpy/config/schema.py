"""
The shape of the configuration: one frozen value, with the default, unit and effect of every key.

The template etc/qmailpy.toml documents each key for people; L{qmailpy.config.load} builds this from it. A name here
is the key there: C{Config.queue.segment_octets} is C{segment_octets} in table C{[queue]}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from attrs import Factory, field, frozen

from qmailpy.config.conversion_schema import ConversionConfig, ConversionsConfig

LISTED = "listed"
"""Marks a text that may be written as a list, too; it is kept with commas between."""


@frozen(kw_only=True)
class ServerConfig:
    """[server]: who we are and how the processes run."""

    hostname: str  # our name in greetings, Received fields and records
    user: str = "qmailpy"  # the workers' user when started as root; ignored otherwise
    group: str = "qmailpy"
    directory_user: str = "qmailpy-dir"  # the directory process's, so that workers cannot read it; "" = user
    workers: int = 1  # mail workers, each with a shard of the queue; 0 = everything in one process
    domain: str = ""  # completes addresses without one in mail submitted by commands; "" = hostname
    postmaster: str = ""  # address; "" = postmaster@ the first domain
    names: tuple[
        str, ...
    ] = ()  # what the directory may call this node besides hostname (mailHost): "HOST" or "HOST:PORT"
    store_channel: str = "tcp_lmtp"  # channel of kind "lmtp" for users whose mail another node stores
    frozen_s: float = 60.0  # a process that has answered nothing for so long is killed and started again; 0 = never
    drain_s: float = 20.0  # how long a stopping daemon waits for what is in flight; then it is cut (nothing is lost)


@frozen(kw_only=True)
class QueueConfig:
    """[queue]: durability, memory and the retry schedule common to all channels."""

    segment_octets: int = 8 * 1024 * 1024  # size of a journal segment
    segments: int = 8  # at most so many segments with work in them; then new mail waits
    spill_octets: int = 128 * 1024  # larger messages stream to mess/ while they arrive
    roll_s: float = 30.0  # a segment with unfinished mail is settled after so long even if not full
    reserve_octets: int = 64 * 1024 * 1024  # space never used for new mail
    reserve_inodes: int = 1000
    lifetime_s: float = 604800.0  # older mail gets a last attempt, then goes back
    warn_s: tuple[float, ...] = (14400.0,)  # delay notices at these ages
    message_octets: int = 52428800  # largest message accepted (SIZE)
    recipients: int = 1000  # most recipients of a message
    received: int = 100  # more Received fields than this is a loop


@frozen(kw_only=True)
class BounceConfig:
    """[bounce]: notices to senders."""

    sender_name: str = "Mail Delivery System"
    return_octets: int = 65536  # larger messages come back with their header only
    copy_postmaster: bool = False  # a copy of every failure notice to postmaster
    double_bounce: bool = True  # a notice that cannot be delivered goes to postmaster; false discards it
    language: str = "en"  # "en", "zh" or "both"; a message that is evidently in one of them is answered in that


@frozen(kw_only=True)
class LocalConfig:
    """[local]: mailboxes of our users."""

    disabled: str = "reject"  # mail for a disabled account: "reject" (550 5.2.1) or "defer" (450 4.2.1)
    over_quota_s: float = 259200.0  # a full mailbox is 4.2.2 (try again) for so long, then 5.2.2; 0 = 5.2.2 at once
    quota_warn: float = 0.9  # share of the quota at which the user is told, once; 0 = never
    programs: bool = False  # users' .qmail files may name programs
    program_s: float = 300.0  # longest time one may take; then it is killed, and the mail waits
    program_memory_octets: int = 1 << 29  # address space it may have
    program_file_octets: int = 1 << 30  # largest file it may write


@frozen(kw_only=True)
class ForwardConfig:
    """[forward]: mail that our addresses pass on to addresses elsewhere."""

    srs: bool = True  # it goes with a sender of ours that leads back to the first one (SRS), so that SPF holds
    domain: str = ""  # domain of these senders; "" = that of the address which forwards
    srs_days: int = 21  # how long such a sender takes bounces


@frozen(kw_only=True)
class LogConfig:
    """[log]: the transaction log's optional fields (iMTA LOG_*) and its rollover."""

    process: bool = True  # pid.lane.sequence; without it the books cannot be verified
    node: bool = False
    filename: bool = True  # queue file; without it the books cannot be verified
    message_id: bool = True
    envelope_id: bool = False
    username: bool = True
    connection: bool = True  # source system in E records
    subject: bool = True  # the first 80 characters of the Subject in E records; without it it cannot be traced by
    connections: bool = True  # O, C, X and Y records
    notary: bool = False
    reason: bool = False
    diagnostics: bool = True
    queue_time: bool = True
    bad_commands: int = 10  # B records a session at most
    roll: str = "00:00"  # local time of the daily rollover; "" = only on demand
    index_days: int = 30  # how far back "qmailpy trace" looks
    index_s: float = 10.0  # how often the indexer brings its index up to date; 0 = no indexer, only commands do
    compress: str = ""  # "zstd" or "gzip": mail.log is packed away by the day, by the indexer; "" = it just grows
    keep_days: int = 0  # what was packed away is removed after so many; 0 = never


@frozen(kw_only=True)
class ListenerConfig:
    """[[listener]]: a port that is listened on."""

    name: str
    kind: str  # "smtp" (mail from other servers), "submission" (from our users), "lmtp" or "pop3"
    endpoint: str  # a Twisted endpoint description: "tcp:25", "tcp:10025:interface=127.0.0.1"
    channel: str = "tcp_local"  # source channel of what arrives here
    tls: str = "starttls"  # "starttls" (offered), "implicit" (from the first octet) or "none"
    auth: str = ""  # "none", "offered" or "required"; "" = "required" for "submission", else "none"
    plain_auth: bool = False  # logins without TLS too, for clients on loopback
    proxy: tuple[str, ...] = ()  # networks of load balancers, whose connections begin with a PROXY header; not for pop3
    connections: int = 10000  # at once, a worker
    connections_per_client: int = 100  # at once, a client address; trusted clients are free of it
    command_timeout_s: float = 300.0
    data_timeout_s: float = 600.0  # between two arrivals of message data
    data_rate: float = 100.0  # octets a second of a message, over some minutes; who is slower is cut off; 0 = any
    errors: int = 20  # refused or bad commands before the session is ended (421)
    messages: int = 1000  # a session
    login_delay_s: float = 0.0  # pop3: least time between two logins of a mailbox; 0 = none
    bare_lf: str = "refuse"  # "refuse" with 550 5.6.11 or "normalise" to CRLF (for old devices)
    binary: bool = True  # messages with octets that are no lines (RFC 3030 BINARYMIME)
    mt_priority: bool = True  # RFC 6710; more than 0 from trusted clients and users only
    hold_s: float = 2592000.0  # submission: longest time a message may be held (RFC 4865 FUTURERELEASE); 0 = none
    dsn: bool = True  # RFC 3461: the client says which reports its sender wants
    deliver_by: bool = True  # RFC 2852: the client says until when
    require_tls: bool = True  # RFC 8689: the client may ask for TLS all the way; under TLS only
    checks: bool = True  # smtp: strangers are looked at as [checks], [[dnslist]] and [greylist] say
    any_sender: tuple[str, ...] = ()  # logins that may send in any name: relays and programs that pass on others' mail
    etrn: tuple[str, ...] = ()  # domains whose mail trusted clients and users may have sent now (RFC 1985)
    client_certificates: str = "none"  # "none", "ask" or "require": clients show one under TLS, and may log in by it
    client_ca_file: str = ""  # PEM: who issues them; relative to HOME
    client_map_file: str = ""  # lines of a SHA-256 fingerprint and a login; relative to HOME
    xclient: tuple[str, ...] = ()  # networks of filters, proxies and nodes that tell who is behind them

    @property
    def login(self) -> str:
        """What C{auth} comes to: "none", "offered" or "required"."""
        return self.auth or ("required" if self.kind in ("submission", "pop3") else "none")


@frozen(kw_only=True)
class ChannelConfig:
    """[channel.NAME]: a way out of the queue."""

    name: str
    kind: str  # of channels.registry.KINDS
    concurrency: int = 20  # jobs at once, a worker
    destination_concurrency: int = 10  # of these, to one destination
    backoff: tuple[float, ...] = ()  # seconds between attempts, the last repeats; empty = quadratic
    quadratic_s: float = 20.0  # attempts at ages (k * this)^2 seconds, as qmail (local 10, remote 20)
    jitter: float = 0.1  # share of a waiting time that is drawn by chance
    lifetime_s: float = 0.0  # 0 = [queue] lifetime_s
    recipients_per_job: int = 100
    relay: Annotated[str, LISTED] = (
        ""  # HOST:PORT or unix:PATH all mail of this channel goes to, or several; "" = by MX
    )
    relay_user: str = ""  # login at the relay; then TLS is a must
    relay_password_file: str = ""  # its password, in the first line; relative to HOME
    relay_order: str = "given"  # of several relays, in each attempt: "given" (the first that works) or "random"
    source_address: tuple[str, ...] = ()  # our end of its connections, an address for IPv4, one for IPv6; empty = any
    helo: str = ""  # what we call ourselves in EHLO; "" = [server] hostname
    port: int = 25
    tls: str = "may"  # "none", "may" (when offered), "must" (any certificate), "verify" (the right one) or "dane"
    dane: bool = True  # follow TLSA records, where [dns] trusted (RFC 7672)
    mta_sts: bool = True  # follow MTA-STS policies (RFC 8461)
    implicit_tls: bool = False  # TLS from the first octet, as relays have it on port 465
    tls_ca_file: str = "/etc/ssl/certs/ca-certificates.crt"  # PEM: who is trusted where tls is "verify"
    connections_idle_s: float = 5.0  # how long an idle connection is kept for the next message
    messages_per_connection: int = 100
    connect_timeout_s: float = 30.0
    greeting_timeout_s: float = 300.0
    command_timeout_s: float = 300.0
    data_timeout_s: float = 600.0  # for the reply to the final dot (RFC 5321 s.4.5.3.2.6)
    gather_s: float = 86400.0  # kind defragment: after so long pieces go on although there are not all
    blocklimit: int = 0  # octets: larger messages do not go by this channel (552 5.3.4); 0 = no limit, as below
    linelimit: int = 0  # octets of a line, without its end: parts with longer ones are encoded, or it bounces (5.6.0)
    holdlimit: int = 0  # a message with more recipients in this channel is held for the operator
    maxreceived: int = 0  # a message with more Received fields is held for the operator: less than [queue] received
    expandlimit: int = 0  # from this channel: an address that stands for more is looked up behind the door
    expandchannel: str = ""  # where; "" = the first of kind "reprocess", else of kind "process"
    single: bool = False  # one recipient a transaction
    single_sys: bool = False  # one domain a transaction, also by a relay
    master_debug: bool = False  # what is said to its hosts is written to HOME/log/trace, until a file has 10 MiB
    logging: str = "full"  # "full", or "brief": no O, C and Y records of its connections
    notices: tuple[float, ...] = ()  # delay notices at these ages; empty = [queue] warn_s
    allow_loopback: bool = False  # deliver to loopback addresses found in the DNS
    stopped: bool = False
    command: tuple[str, ...] = ()  # pipe: the program that takes each recipient's copy, and its arguments
    run_s: float = 300.0  # pipe: longest time it may take; then it is killed, and the mail waits
    run_memory_octets: int = 1 << 29  # pipe: address space it may have
    run_file_octets: int = 1 << 30  # pipe: largest file it may write


@frozen(kw_only=True)
class RuleConfig:
    """[[rewrite]]: first match wins; see docs/channels.md."""

    pattern: str  # "host.example", ".example" (subdomains), "*.example", "[]" (any literal), "." (any)
    channel: str = ""  # where it goes; with direction "from": only what leaves by it, "" = by any
    host: Annotated[str, LISTED] = ""  # next hop, or several in the order to try; "" = the address's own domain
    address: str = ""  # "$U@other.example": the address rewritten; "" = unchanged
    source: str = ""  # only for mail from this channel; "" = any
    sender: tuple[str, ...] = ()  # only for mail of senders like these ("<>" the null sender); empty = any
    user: tuple[str, ...] = ()  # only for mail of logins like these ("<>" none); empty = any
    direction: str = "to"  # "to": where recipients lead; "from": what senders are called outside
    line: int = field(default=0, eq=False)  # where it stands in the file; no key


@frozen(kw_only=True)
class DestinationConfig:
    """[[destination]]: what is different for some of the hosts mail goes to; the most exact pattern wins."""

    pattern: str  # "host.example", ".example" (subdomains), "." (any): a domain, or the host of a relay
    channel: str = ""  # only for this channel; "" = any
    tls: str = ""  # as at [channel.NAME]; "" = the channel's
    implicit_tls: bool = False  # TLS from the first octet; false = as the channel has it
    port: int = 0  # 0 = the channel's
    user: str = (
        ""  # login at a relay, or at a host that a rule names; then TLS is a must; "" = the channel's relay_user
    )
    password_file: str = ""  # its password, in the first line; relative to HOME
    source_address: tuple[str, ...] = ()  # empty = the channel's
    helo: str = ""  # "" = the channel's
    concurrency: int = 0  # connections at once, a worker; 0 = the channel's destination_concurrency
    messages_per_minute: float = 0.0  # a worker; 0 = as many as there are


@frozen(kw_only=True)
class DirectoryConfig:
    """[directory]: where users are."""

    endpoint: str = "tcp:389:interface=127.0.0.1"  # where the embedded LDAP server listens for LDAP tools
    tls_endpoint: str = ""  # the same with TLS from the first octet (ldaps): "tcp:636"; "" = nowhere
    base: str = "o=qmailpy"
    positive_s: float = 60.0  # lifetime of a cached entry of external servers
    embedded_s: float = 3600.0  # of one of the embedded server, which tells of every change
    negative_s: float = 10.0  # lifetime of a cached absence
    login_s: float = 60.0  # lifetime of a cached login
    stale_s: float = 3600.0  # how long after its lifetime an entry may be used while no server answers
    cache_entries: int = 100000
    timeout_s: float = 10.0
    servers: tuple[str, ...] = ()  # LDAP URLs, in the order to try; empty = the embedded directory
    bind_dn: str = ""  # whom we bind as to look up
    bind_password_file: str = ""  # the password, in the first line; relative to HOME
    admin_dn: str = ""  # whom commands that change something bind as; "" = bind_dn
    admin_password_file: str = ""
    starttls: str = "verify"  # "none", "must" (with any certificate) or "verify" (with the right one); ldapi needs none
    ca_file: str = "/etc/ssl/certs/ca-certificates.crt"  # PEM: who is trusted where starttls is "verify"
    logins: str = "bind"  # "bind" as the user, or "compare" with the hash that bind_dn reads


@frozen(kw_only=True)
class DnsConfig:
    """[dns]: the resolver."""

    servers: tuple[str, ...] = ()  # "ADDRESS" or "ADDRESS:PORT"; empty = /etc/resolv.conf
    trusted: bool = False  # they validate by DNSSEC, and nobody can change what they say on its way: DANE is done
    timeout_s: float = 10.0


@frozen(kw_only=True)
class MtaStsConfig:
    """[mta_sts]: how MTA-STS policies are fetched; channels say whether they are followed (RFC 8461)."""

    ca_file: str = "/etc/ssl/certs/ca-certificates.crt"  # PEM: authorities of the web servers that have them


@frozen(kw_only=True)
class Pop3Config:
    """[pop3]: users whose mailboxes another node has: how they are let in there (docs/pop3.md)."""

    port: int = 110  # of another node, where the directory names none
    tls: str = "verify"  # towards other nodes: "none", "must" (any certificate) or "verify" (the right one)
    ca_file: str = "/etc/ssl/certs/ca-certificates.crt"  # PEM: who is trusted where tls is "verify"
    timeout_s: float = 20.0  # for another node to let a user in
    node_user: str = ""  # account by which nodes let users in at each other; "" = with the user's password
    node_password_file: str = ""  # its password, in the first line, the same on all nodes; relative to HOME


@frozen(kw_only=True)
class TlsrptConfig:
    """[tlsrpt]: daily reports to domains that ask what came of TLS with their hosts (RFC 8460)."""

    send: bool = False
    contact: str = ""  # address the reports come from; "" = the postmaster's
    organization: str = ""  # our name in them; "" = hostname
    dkim_selector: str = ""  # reports by mail are signed with its key (RFC 8460 s.3); "" = they are not
    dkim_key: str = ""  # PEM file with the key, relative to HOME; "" = etc/SELECTOR.dkim.pem
    dkim_domain: str = ""  # in whose name; "" = the domain they come from


@frozen(kw_only=True)
class MonitorConfig:
    """[monitor]: figures for Prometheus, and when something is wrong (docs/monitoring.md)."""

    endpoint: str = ""  # "tcp:10909:interface=127.0.0.1"; "" = none
    interval_s: float = 60.0  # how often the node is looked at for events
    queue_messages: int = 10000  # so many queued are an event, and a warning of "qmailpy status"; 0 = never
    queue_age_s: float = 14400.0  # the same of the oldest message's age
    stuck_s: float = 1800.0  # a channel that has work and ends no attempt for so long is stuck; 0 = never


@frozen(kw_only=True)
class EventsConfig:
    """[events]: a program that is told of events (docs/monitoring.md)."""

    command: tuple[str, ...] = ()  # program and arguments; empty = none
    severity: str = "warning"  # "notice", "warning", "critical": as grave as this, or graver
    timeout_s: float = 30.0  # then it is killed
    waiting: int = 100  # events that wait for it, in each process; later ones are left out


@frozen(kw_only=True)
class TrustConfig:
    """[trust]: clients that may relay and are free of per-client limits."""

    networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")


@frozen(kw_only=True)
class LimitsConfig:
    """[limits]: how much clients and users may do; trusted clients are free of it; 0 = no limit."""

    ipv4_network: int = 24  # bits: what is one network
    ipv6_network: int = 64
    network_connections: int = 1000  # at once; of one client: connections_per_client of the listener
    user_connections: int = 0  # at once, logged in
    client_connections_per_hour: int = 0
    network_connections_per_hour: int = 0
    client_messages_per_hour: int = 0  # without a login, as all limits of clients and networks
    network_messages_per_hour: int = 0
    client_recipients_per_hour: int = 0
    network_recipients_per_hour: int = 0
    user_messages_per_hour: int = 0
    user_recipients_per_hour: int = 0
    user_sends_a_day: int = 0  # recipients in 24 hours, for users whose plan says nothing

    @property
    def of_messages(self) -> bool:
        """Whether there are any but those of connections."""
        return any(
            getattr(self, f"{who}_{what}_per_hour")
            for who in ("client", "network", "user")
            for what in ("messages", "recipients")
        ) or bool(self.user_sends_a_day)


@frozen(kw_only=True)
class ChecksConfig:
    """[checks]: what is looked at before mail of strangers is taken at listeners of kind smtp."""

    greet_delay_s: float = 0.0  # before the greeting; who talks meanwhile is an early talker
    early_talkers: str = "reject"  # "none", "tag" or "reject"; with greet_delay_s
    pipelining: str = "none"  # who sends further commands before EHLO is answered, or after HELO
    helo_syntax: str = "none"  # "none", "tag" or "reject": what is no full host name and no address literal
    helo_ours: str = "none"  # our own name or address
    helo_literal: str = "none"  # an address literal of another address
    reverse_name: str = "none"  # "none", "exists" or "confirmed": which reverse DNS a client must have
    reverse_action: str = "reject"  # "tag" or "reject" who has not
    sender_domain: str = "none"  # "none", "tag" or "reject": a domain that does not exist, or has a null MX
    lists_score: float = 1.0  # weight of lists from which on a client is refused
    lists_action: str = "reject"  # "tag" or "reject"
    dns_timeout_s: float = 5.0  # for all questions about a client together; what is unanswered then counts as good


@frozen(kw_only=True)
class DnsListConfig:
    """[[dnslist]]: a list in the DNS of addresses that send unwanted mail, or wanted (DNSBL, DNSWL; RFC 5782)."""

    zone: str
    weight: float = 1.0  # below 0: a list of good clients
    answers: tuple[str, ...] = ()  # addresses or networks that count; empty = 127.0.0.0/8 but 127.255.255.0/24


@frozen(kw_only=True)
class GreylistConfig:
    """[greylist]: the first attempt of a stranger is put off."""

    enabled: bool = False
    delay_s: float = 300.0  # before a retry is taken
    retry_s: float = 172800.0  # a retry later than that is a first attempt again
    lifetime_s: float = 3110400.0  # how long what has been let in is remembered after its last mail
    good_after: int = 5  # so many let in, and all mail of the client's network is; 0 = never
    entries: int = 1000000  # most that is remembered; the oldest go


@frozen(kw_only=True)
class AccessConfig:
    """[[port_access]] and its like: a rule of an access table; the first that fits decides (docs/policy.md)."""

    action: str  # "accept", "reject", "defer", "discard", "hold" or "tag"
    listener: tuple[str, ...] = ()  # names of listeners; empty = any, here and below
    client: tuple[str, ...] = ()  # networks
    helo: tuple[str, ...] = ()  # what the client calls itself
    user: tuple[str, ...] = ()  # who has logged in; "<>" nobody
    source: tuple[str, ...] = ()  # channel the mail comes from
    sender: tuple[str, ...] = ()  # "<>" the null sender
    destination: tuple[str, ...] = ()  # channel it is to go to
    recipient: tuple[str, ...] = ()  # orig_send_access: as named; else what the address leads to
    named: tuple[str, ...] = ()  # as named
    tagged: tuple[str, ...] = ()  # a tag it has
    text: str = ""  # of the reply; "" = a general one
    code: str = ""  # enhanced code of the reply: "5.7.1"; "" = 5.7.1 or 4.7.1
    tag: str = ""  # given by "tag"
    line: int = 0  # where it stands in the file; no key


ACCESS_KEYS: Mapping[str, tuple[str, ...]] = {
    "port_access": ("listener", "client", "source"),
    "from_access": ("listener", "client", "source", "helo", "user", "sender", "tagged"),
    "orig_send_access": ("source", "sender", "destination", "recipient", "tagged"),
    "send_access": ("source", "sender", "destination", "recipient", "tagged"),
    "mail_access": (
        "listener",
        "client",
        "source",
        "helo",
        "user",
        "sender",
        "destination",
        "recipient",
        "named",
        "tagged",
    ),
}
"""The access tables, in the order they are asked, and what a rule of each can look at."""


@frozen(kw_only=True)
class Config:
    """All of it."""

    home: str  # absolute path of HOME
    server: ServerConfig
    queue: QueueConfig = QueueConfig()
    bounce: BounceConfig = BounceConfig()
    local: LocalConfig = LocalConfig()
    forward: ForwardConfig = ForwardConfig()
    log: LogConfig = LogConfig()
    directory: DirectoryConfig = DirectoryConfig()
    dns: DnsConfig = DnsConfig()
    mta_sts: MtaStsConfig = MtaStsConfig()
    pop3: Pop3Config = Pop3Config()
    tlsrpt: TlsrptConfig = TlsrptConfig()
    monitor: MonitorConfig = MonitorConfig()
    events: EventsConfig = EventsConfig()
    trust: TrustConfig = TrustConfig()
    listeners: tuple[ListenerConfig, ...] = ()
    channels: Mapping[str, ChannelConfig] = field(default=Factory(dict))
    rules: tuple[RuleConfig, ...] = ()
    destinations: tuple[DestinationConfig, ...] = ()
    limits: LimitsConfig = LimitsConfig()
    checks: ChecksConfig = ChecksConfig()
    greylist: GreylistConfig = GreylistConfig()
    dnslists: tuple[DnsListConfig, ...] = ()
    port_access: tuple[AccessConfig, ...] = ()
    from_access: tuple[AccessConfig, ...] = ()
    orig_send_access: tuple[AccessConfig, ...] = ()
    send_access: tuple[AccessConfig, ...] = ()
    mail_access: tuple[AccessConfig, ...] = ()
    selections: tuple[ConversionConfig, ...] = ()  # [[conversion]]: what goes through a conversion channel
    conversions: ConversionsConfig = Factory(ConversionsConfig)  # conversions.toml: what is done there

    @property
    def report_sender(self) -> str:
        """The address that reports on TLS come from."""
        server = self.server
        return self.tlsrpt.contact or server.postmaster or f"postmaster@{server.domain or server.hostname}"

    @property
    def report_signer(self) -> str:
        """The domain in whose name they are signed."""
        return (self.tlsrpt.dkim_domain or self.report_sender.rpartition("@")[2]).lower()

    def path(self, *parts: str) -> str:
        """A path below HOME."""
        return "/".join((self.home, *parts))
