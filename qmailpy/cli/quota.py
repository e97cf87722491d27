"""C{qmailpy user quota}: how full a mailbox is, and its domain."""

from __future__ import annotations

import time

import click
from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_json, print_line
from qmailpy.cli.people import JSON
from qmailpy.cli.store import open_store
from qmailpy.config.schema import Config
from qmailpy.directory.embedded import EmbeddedDirectory
from qmailpy.disk.files import RealFiles
from qmailpy.disk.rights import acting_as, owner
from qmailpy.errors import CommandError
from qmailpy.local.maildir import mailbox_path
from qmailpy.local.quota import Amount, Limit, Tally, domain_tally, size_words
from qmailpy.values import Domain, Mailbox


@frozen(kw_only=True)
class Used:
    """How full something is."""

    name: str
    amount: Amount
    limit: Limit


@click.command("quota", short_help="Show how full the mailbox ADDRESS is.")
@click.argument("address", metavar="ADDRESS")
@click.option("--recount", is_flag=True, help="Count the mail, whatever is remembered of it; also that of the domain.")
@JSON
@click.pass_obj
def quota(context: Context, address: str, recount: bool, as_json: bool) -> None:
    """Show how full the mailbox ADDRESS is, and its domain where that has a quota."""
    mailbox, domain = _found(context, address)
    config = context.config
    used = [_mailbox(config, mailbox, recount)]
    if domain is not None and domain.quota_octets:
        used.append(_domain(config, mailbox, domain, recount))
    if as_json:
        print_json(
            [
                {
                    "name": one.name,
                    "octets": one.amount.octets,
                    "messages": one.amount.messages,
                    "quota_octets": one.limit.octets,
                    "quota_messages": one.limit.messages,
                }
                for one in used
            ]
        )
        return
    width = max(len(one.name) for one in used)
    for one in used:
        print_line(f"{one.name:<{width}}  {words(one)}")


def remembered(config: Config, mailbox: str) -> str:
    """
    How full a mailbox is, without counting anything; "" when that is not known.

    @param mailbox: its path below HOME/mail.
    """
    root = config.path("mail")
    with acting_as(owner(root)):
        try:
            tally = Tally(RealFiles(), mailbox_path(root, mailbox), Limit(), time.time)
            found = tally.thd_read()
        except OSError:
            return ""
    return "" if found is None else words(Used(name="", amount=found, limit=Limit()))


def words(used: Used) -> str:
    """For people: "1.5 MiB of 100 MiB, 34 messages (1 %)"."""
    octets = size_words(used.amount.octets) + (f" of {size_words(used.limit.octets)}" if used.limit.octets else "")
    count = f"{used.amount.messages}" + (f" of {used.limit.messages}" if used.limit.messages else "")
    share = f" ({100 * used.limit.share(used.amount):.0f} %)" if used.limit else ""
    return f"{octets}, {count} message{'' if count == '1' else 's'}{share}"


def _found(context: Context, address: str) -> tuple[Mailbox, Domain | None]:
    """@raise CommandError: it is no mailbox of this node."""
    results: list[object] = []

    async def ask(directory: EmbeddedDirectory) -> None:
        found = await directory.lookup(address.strip())
        results.append(found)
        if isinstance(found, Mailbox):
            results.append(await directory.domain(found.address.rpartition("@")[2]))

    with open_store(context.home) as store:
        failed: list[BaseException] = []

        def wrong(failure: Failure) -> None:
            failed.append(failure.value or CommandError("the directory gave no answer"))

        Deferred.fromCoroutine(ask(EmbeddedDirectory(store, maybeDeferred))).addErrback(wrong)
    if failed:
        raise failed[0]
    mailbox = results[0] if results else None
    if not isinstance(mailbox, Mailbox):
        raise CommandError(f"there is no user {address}; which there are: qmailpy user list")
    domain = results[1]
    return mailbox, domain if isinstance(domain, Domain) else None


def _mailbox(config: Config, mailbox: Mailbox, recount: bool) -> Used:
    root = config.path("mail")
    limit = Limit(mailbox.quota_octets, mailbox.quota_messages)
    with acting_as(owner(root)):
        try:
            tally = Tally(RealFiles(), mailbox_path(root, mailbox.path), limit, time.time)
            # Without a limit there is no file to keep.
            amount = tally.thd_count() if not limit else tally.thd_recount() if recount else tally.thd_amount()
        except OSError as error:
            raise CommandError(f"{error.filename or mailbox.path}: {error.strerror or error}") from None
    return Used(name=mailbox.address, amount=amount, limit=limit)


def _domain(config: Config, mailbox: Mailbox, domain: Domain, recount: bool) -> Used:
    root = config.path("mail")
    limit = Limit(domain.quota_octets)
    with acting_as(owner(root)):
        try:
            tally = domain_tally(RealFiles(), f"{root}/{mailbox.path.partition('/')[0]}", limit, time.time)
            amount = tally.thd_recount() if recount else tally.thd_amount()
        except OSError as error:
            raise CommandError(f"{error.filename or domain.name}: {error.strerror or error}") from None
    return Used(name=domain.name, amount=amount, limit=limit)
