"""A message's whole story: through a conversion, on by a forward, refused far away, and the notice of that."""

from __future__ import annotations

import json
from typing import ClassVar

from qmailpy.directory.accounts import Accounts
from qmailpy.directory.setup import store_path
from qmailpy.directory.store import Store
from tests.integration.node import Node, NodeCase, Settings
from tests.integration.peers.client import message
from tests.integration.peers.sink import always


class StoryTests(NodeCase):
    settings: ClassVar[Settings] = {"log.index_s": 0.0}

    def begin(self, node: Node) -> None:
        with open(node.path("etc", "qmailpy.toml"), "a") as target:
            target.write('\n[[conversion]]\nsource = "tcp_local"\n')
        store = Store(store_path(node.home))
        try:
            Accounts(store, "o=qmailpy").thd_add_alias("info@example.org", ["bob@example.org", "far@gone.example"])
        finally:
            store.thd_close()
        node.start()

    def test_it_is_told_from_wherever_one_begins(self) -> None:
        """Whichever of the five messages is named, or an address, or the subject."""
        self.sink.answer = always("RCPT", "550 5.1.1 unknown here")
        with self.node.talk() as talk:
            talk.mail("alice@example.org", ["info@example.org"], message("a long way"))
        self.node.wait_mailbox("alice", 1)
        self.wait_idle()
        told = self.node.qmailpy("trace", "long way")
        for text in (
            "into the queue of conversion",
            "into the queue of local",
            "for far@gone.example",
            "550 5.1.1 unknown here",
            "bounce of",
            "delivered to alice@example.org by local",
        ):
            self.assertIn(text, told)
        found = json.loads(self.node.qmailpy("trace", "long way", "--json"))["messages"]
        self.assertGreaterEqual(len(found), 5, told)
        for one in found:
            self.assertEqual(self.node.qmailpy("trace", one["id"]), told, one["id"])
        self.assertEqual(self.node.qmailpy("trace", "far@gone.example"), told)
