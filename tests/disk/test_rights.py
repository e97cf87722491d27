"""Acting as somebody else: whose what is made is, that it ends, and what is not read."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from qmailpy.disk.rights import Identity, acting_as, owner, read_plain
from tests.integration.daemon_process import ROOT

SOMEBODY = Identity(65534, 65533)
OTHER = Identity(65532, 65531)


class Acting(SynchronousTestCase):
    """As root, in the test's own process: it ends as it began."""

    def setUp(self) -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root can act as somebody else")
        self.ids = (os.getresuid(), os.getresgid(), os.getgroups())
        self.folder = os.path.abspath(self.mktemp())
        os.mkdir(self.folder, 0o700)
        os.chown(self.folder, *(SOMEBODY.uid, SOMEBODY.gid))
        self.handle = os.open(self.folder, os.O_RDONLY)  # what leads there may be closed to others
        self.addCleanup(os.close, self.handle)

    def make(self, name: str) -> tuple[int, int]:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=self.handle))
        found = os.stat(name, dir_fd=self.handle)
        return found.st_uid, found.st_gid

    def test_what_is_made_belongs_to_the_one_acted_as(self) -> None:
        with acting_as(SOMEBODY):
            self.assertEqual(self.make("a"), (SOMEBODY.uid, SOMEBODY.gid))
            self.assertEqual(os.getgroups(), [SOMEBODY.gid])
            self.assertEqual(os.getresuid(), (0, SOMEBODY.uid, 0), "nobody else may signal us meanwhile")
        self.assertEqual((os.getresuid(), os.getresgid(), os.getgroups()), self.ids)
        self.assertEqual(self.make("b")[0], 0)

    def test_it_ends_with_an_error_too(self) -> None:
        with self.assertRaises(PermissionError), acting_as(OTHER):
            self.make("a")
        self.assertEqual((os.getresuid(), os.getresgid(), os.getgroups()), self.ids)

    def test_one_within_another_counts_and_gives_back(self) -> None:
        with acting_as(OTHER):
            with acting_as(owner(self.folder) or SOMEBODY):
                self.assertEqual(self.make("a"), (SOMEBODY.uid, SOMEBODY.gid))
            self.assertEqual((os.geteuid(), os.getegid(), os.getgroups()), (OTHER.uid, OTHER.gid, [OTHER.gid]))
            self.assertRaises(PermissionError, self.make, "b")
        self.assertEqual((os.getresuid(), os.getresgid(), os.getgroups()), self.ids)

    def test_without_the_right_to_it_the_body_does_not_run(self) -> None:
        script = (
            "import os\nfrom qmailpy.disk.rights import Identity, acting_as\n"
            "os.setgroups([]); os.setresgid(7, 7, 7); os.setresuid(7, 7, 7)\n"
            "try:\n    with acting_as(Identity(8, 8)):\n        print('ran')\n"
            "except PermissionError:\n    print('refused', os.geteuid())\n"
            "with acting_as(Identity(7, 7)):\n    print('myself')\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
        self.assertEqual(done.stdout, "refused 7\nmyself\n")


class Looking(SynchronousTestCase):
    def test_root_acts_as_the_owner_of_a_directory_and_others_as_themselves(self) -> None:
        folder = self.mktemp()
        os.mkdir(folder)
        self.patch(os, "getuid", lambda: 7)
        self.assertIsNone(owner(folder))
        self.patch(os, "getuid", lambda: 0)
        found = os.stat(folder)
        self.assertEqual(owner(folder), Identity(found.st_uid, found.st_gid) if found.st_uid else None)
        self.assertIsNone(owner(folder + "/nowhere"))

    def test_links_and_pipes_are_not_read(self) -> None:
        """A pipe that nobody writes to would hold up whoever opens it."""
        path = self.mktemp()
        with open(path, "w") as target:
            target.write("secret")
        self.assertEqual(read_plain(path, 4), b"secr")
        os.symlink(os.path.abspath(path), path + ".link")
        os.mkfifo(path + ".pipe")
        os.mkdir(path + ".directory")
        for kind in ("link", "pipe", "directory", "nothing"):
            self.assertRaises(OSError, read_plain, f"{path}.{kind}", 4)
