"""
What the log's commands cost: C{python -m benchmarks.books [--lines 5000000] [--directory DIR]}.

Makes a log of mail as it might be (two lines a message and more, 20,000 people, a subject each), adds it up in each
way, builds the index of C{qmailpy trace} and asks it. Rates are lines by CPU seconds of one core.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from qmailpy.config.schema import LogConfig
from qmailpy.disk.files import RealFiles
from qmailpy.records.archive import thd_batches, thd_sources
from qmailpy.records.index import INDEX, LogIndex, thd_index
from qmailpy.records.packing import thd_pack
from qmailpy.stats.account import Account, By

_WORDS = (
    *("invoice", "report", "meeting", "order", "delivery", "your", "account", "update", "weekly", "status", "project"),
    *("notes", "question", "about", "the", "new", "office", "lunch", "agenda", "minutes", "offer", "price", "list"),
    *("contract", "signed", "draft", "review", "please", "confirm", "shipping", "notice", "ticket", "opened", "reset"),
)
_HAN = "会议通知订单发票合同报告更新账户密码重置周报项目问题附件请查收回复转发春夏秋冬"
PASSED = 4
"""One message of so many is handed on by a channel: four lines a recipient."""

_SPAN_S = 20 * 86400
_T = TypeVar("_T")


def lines(count: int, seed: int = 1) -> Iterator[bytes]:
    """So many lines: 80 % go to one person, the rest to three; one in twenty fails once."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    start = time.time() - _SPAN_S
    made = number = 0
    while made < count:
        number += 1
        at = start + _SPAN_S * made / count
        stamp = time.strftime("%d-%b-%Y %H:%M:%S", time.localtime(at)) + f".{number % 100:02d}"
        queue_id = f"{number:015d}"
        sender = f"user{draw.randrange(20000)}@d{draw.randrange(500)}.example"
        subject = (
            "".join(draw.choices(_HAN, k=draw.randint(4, 14)))
            if number % 5 == 0
            else " ".join(draw.choices(_WORDS, k=draw.randint(2, 8)))
        )
        head = f"<{number}.{draw.randrange(10**9)}@d.example>"
        people = 1 if draw.random() < 0.8 else 3
        text: list[str] = []
        for one in range(people):
            to = f"user{draw.randrange(20000)}@e{draw.randrange(500)}.example"
            plus = "+" if one else ""
            text.append(
                f"{stamp} 409f.0.{made + len(text) + 1} tcp_local    tcp_remote   EES 12 {sender} rfc822;{to} {to} "
                f"tcp_remote/05/ZZ{queue_id}.{one + 1:02d}{plus} {head}  relay.example (relay.example [192.0.2.6]) "
                f'"{subject} {number}"\n'
            )
            left = people - one - 1
            said = (
                f"dns;mx{one}.example (TCP|192.0.2.9|2788|198.51.100.7|25) (mx ESMTP) (TLSv1.3/TLS_AES_256_GCM_SHA384)"
            )
            tries = ("Q", "D") if draw.random() < 0.05 else ("D",)
            for attempt, letter in enumerate(tries):
                words = "smtp;250 2.1.5 ok 0.356" if letter == "D" else "smtp;450 4.2.0 later"
                text.append(
                    f"{stamp} 409f.0.{made + len(text) + 1} tcp_remote                {letter}ES 12 {sender} "
                    f"rfc822;{to} {to} tcp_remote/05/Z{'ZY'[attempt]}{queue_id}.{left:02d} {head}  {said} {words}\n"
                )
            if number % PASSED == 0:  # it is converted on its way
                text[-len(tries) - 1 :] = _passed(text[-len(tries) - 1 :], f"{number:014d}c", queue_id)
        made += len(text)
        yield "".join(text).encode()


def _passed(text: Sequence[str], before: str, after: str) -> Iterator[str]:
    """
    The lines of mail that was converted on its way.

    @param text: a recipient's line E and others. @param before: the queue id it had until then. @param after: since.
    """
    came, *left = text
    yield _inside(came.replace(" tcp_remote   EES", " conversion   EES")).replace(after, before)
    head, _, words = came.partition("relay.example (relay.example [192.0.2.6])")
    yield f"{head.replace('tcp_local    tcp_remote   EES', 'conversion   tcp_remote   E')}{before}{words}"
    gone = _inside(left[-1].replace("tcp_remote                DES", "conversion                D"))
    yield gone[: gone.index(" dns;")].replace(after, before) + " 250 2.6.0 ok 0.002\n"
    yield from left


def _inside(line: str) -> str:
    return line.replace("tcp_remote/05", "conversion/05")


def timed(name: str, count: int, work: Callable[[], _T]) -> _T:
    """Run it and print what it took."""
    gc.collect()
    cpu, wall = time.process_time(), time.monotonic()
    found = work()
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    rate = f"{count / cpu:12,.0f}/s" if count else ""
    print(f"{name:<44} {cpu:8.2f} s CPU {wall:8.2f} s {rate}", flush=True)  # noqa: T201
    return found


def asked(index: LogIndex) -> None:
    """Questions, at the end and at the beginning of the time."""
    some = f"{7:015d}"
    (mail,) = index.by_id(some)
    (line,) = index.lines(mail)[:1]
    address = line.split(" rfc822;")[1].split(" ")[0]
    questions: tuple[tuple[str, Callable[[], object]], ...] = (
        ("by queue id", lambda: index.by_id(some)),
        ("by Message-ID", lambda: index.by_message_id(mail.message_id)),
        ("by address", lambda: index.by_address(address, 10)),
        ("by a frequent subject", lambda: index.by_subject("contract signed", 10)),
        ("by a subject of the first day", lambda: index.by_subject("合同 5", 10, until=mail.time + 1000)),
        ("by a subject that is not there", lambda: index.by_subject("zebra contract", 10)),
    )
    for name, question in questions:
        timed(f"  {name}", 0, question)


def main() -> None:
    parser = argparse.ArgumentParser(description="what the commands on the log cost")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--directory", default="", help="where; kept")
    given = parser.parse_args()
    directory = given.directory or tempfile.mkdtemp(prefix="books-")
    try:
        os.makedirs(directory, exist_ok=True)
        log = f"{directory}/mail.log"
        if not os.path.exists(log):
            with open(log, "wb") as target:
                target.writelines(lines(given.lines))
        count = sum(chunk.count(b"\n") for chunk in _chunks(log))
        print(f"{count:,} lines, {os.path.getsize(log) / 1e6:,.0f} MB")  # noqa: T201
        for ways in (*((by,) for by in By), (By.DAY, By.DOMAIN)):
            timed("account by " + ", ".join(by.value for by in ways), count, partial(_account, directory, ways))
        files = RealFiles()
        index = timed("index", count, partial(thd_index, files, directory, LogConfig(), time.time(), rebuild=True))
        print(f"{os.path.getsize(f'{directory}/{INDEX}') / 1e6:,.0f} MB")  # noqa: T201
        asked(index)
        index.close()
        for compress in ("zstd", "gzip"):
            shutil.copy(log, f"{directory}/kept")
            now = time.time() + 86400
            timed(f"packed with {compress}", count, partial(thd_pack, files, directory, compress, 0, now))
            (packed,) = [name for name in os.listdir(directory) if name.endswith((".zst", ".gz"))]
            print(f"{os.path.getsize(f'{directory}/{packed}') / 1e6:,.0f} MB")  # noqa: T201
            timed("account by domain, of it", count, partial(_account, directory, (By.DOMAIN,)))
            os.unlink(f"{directory}/{packed}")
            os.rename(f"{directory}/kept", log)
    finally:
        if not given.directory:
            shutil.rmtree(directory)


def _account(directory: str, ways: Sequence[By]) -> None:
    account = Account(ways, LogConfig())
    for batch in thd_batches(thd_sources(directory)):
        account.feed(batch)


def _chunks(path: str) -> Iterator[bytes]:
    with open(path, "rb") as source:
        while chunk := source.read(1 << 20):
            yield chunk


if __name__ == "__main__":
    main()
