"""The directory's file in the hands of root: with its owner's rights, whoever that is."""

from __future__ import annotations

import os
import shutil
import tempfile

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from qmailpy.cli.store import as_keeper, open_store
from qmailpy.directory.paths import directory_path
from qmailpy.directory.setup import create
from qmailpy.disk.rights import Identity, acting_as

KEEPER = Identity(65534, 65533)


class Keeping(SynchronousTestCase):
    def setUp(self) -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root can act as somebody else")
        self.home = tempfile.mkdtemp(prefix="qmailpy-test-")  # trial's own place may be closed to others
        self.addCleanup(shutil.rmtree, self.home)
        os.chmod(self.home, 0o711)
        create(self.home, "o=qmailpy", "example.org")
        folder = directory_path(self.home)
        for name in (".", *os.listdir(folder)):
            os.chown(os.path.join(folder, name), KEEPER.uid, KEEPER.gid)

    def test_root_is_the_owner_while_the_store_is_open(self) -> None:
        with open_store(self.home) as store:
            self.assertEqual((os.geteuid(), os.getegid()), (KEEPER.uid, KEEPER.gid))
            self.assertIsNotNone(store.thd_by_address("postmaster@example.org"))
            for name in os.listdir(directory_path(self.home)):
                self.assertEqual(os.stat(os.path.join(directory_path(self.home), name)).st_uid, KEEPER.uid, name)
        self.assertEqual(os.geteuid(), 0)

    def test_it_is_within_other_rights_too(self) -> None:
        """As where a command works on the queue of a stopped home, and asks the directory in between."""
        run = as_keeper(self.home)
        with acting_as(Identity(65532, 65531)):
            self.assertEqual(self.successResultOf(run(os.geteuid)), KEEPER.uid)
            self.assertEqual(os.geteuid(), 65532)
