"""
Who may write to a group: a conversation with the directory, as L{qmailpy.routing.expand} is one.

The writer is known by the sender of the message and, where there was one, by the login. A sender is easily invented:
where that matters, a group of people of ours is written to with a login, and C{[listener] auth} sees to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

from attrs import frozen

from qmailpy.config.schema import ChannelConfig
from qmailpy.values import Alias, Domain, Envelope, Group, Mailbox, Posting, Reply, Room

MOST = 1000
"""Members that are looked at of a group and the groups in it, one below the other."""

_WORDS = {
    "members": "Only members may write to this group",
    "listed": "Only chosen people may write to this group",
    "domain": "Only people of its own domain may write to this group",
}


@frozen
class AskAddress:
    """Who is this? Answered with a L{Mailbox}, an L{Alias}, a L{Group} or C{None}."""

    address: str


def accepted(envelope: Envelope) -> Posting:
    """What routing is told of a message that is in the queue already."""
    return Posting(sender=envelope.sender, user=envelope.user, accepted=True)


def too_large(channel: ChannelConfig) -> Reply:
    """What is said of a message larger than a channel's C{blocklimit}."""
    return Reply(552, "5.3.4", f"Message is larger than the {channel.blocklimit} octets that go by {channel.name}")


Answer = Domain | Mailbox | Alias | Group | Room | None


def may_post(group: Group, about: Posting) -> Generator[AskAddress, Answer, Reply | None]:
    """
    Whether a message may go to a group.

    @return: what refuses it.
    """
    if group.posters == "anyone":
        return None
    refusal = Reply(550, "5.7.1", _WORDS.get(group.posters, _WORDS["listed"]))
    names = {name.lower() for name in (about.sender, about.user) if name}
    if not names:
        return refusal
    listed = {one.lower() for one in group.listed}
    if names & listed or (group.posters == "domain" and any(_domain(one) == _domain(group.address) for one in names)):
        return None
    for name in sorted(names):  # under its main address somebody may be a member, too
        found = yield AskAddress(name)
        if isinstance(found, Mailbox):
            names.add(found.address.lower())
    if names & listed or (group.posters == "members" and (yield from _is_member(group, names))):
        return None
    return refusal


def _is_member(group: Group, names: set[str]) -> Generator[AskAddress, Answer, bool]:
    seen = {group.address.lower()}
    waiting = deque(one.lower() for one in group.members)
    if names & set(waiting):
        return True
    while waiting and len(seen) < MOST:
        member = waiting.popleft()
        if member in seen:
            continue
        seen.add(member)
        found = yield AskAddress(member)
        if isinstance(found, Mailbox) and found.address.lower() in names:
            return True
        if isinstance(found, Group):
            inner = [one.lower() for one in found.members]
            if names & set(inner):
                return True
            waiting.extend(inner)
    return False


def _domain(address: str) -> str:
    return address.rpartition("@")[2].lower()
