"""Files of a conversion, and what commands leave there."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.conversions.scratch import Scratch, thd_clean


class ScratchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = os.path.abspath(self.mktemp())
        self.outside = os.path.abspath(self.mktemp())
        os.mkdir(self.outside)
        self.scratch = Scratch(self.root)
        self.home = os.path.dirname(self.scratch.thd_write("input", [b"x"]))

    def gone(self) -> None:
        with open(os.path.join(self.outside, "kept"), "w"):
            pass
        self.scratch.thd_remove()
        self.assertEqual(os.listdir(self.root), [])
        self.assertEqual(os.listdir(self.outside), ["kept"])
        self.assertFalse(self.scratch.used)

    def test_a_home_that_was_moved_away_goes_too(self) -> None:
        """And the link that a command has put in its place, but not what it leads to."""
        os.rename(self.home, f"{self.home}.moved")
        os.symlink(self.outside, self.home)
        self.gone()

    def test_a_home_that_is_a_file_now(self) -> None:
        os.rename(self.home, f"{self.home}.moved")
        with open(self.home, "w"):
            pass
        self.gone()

    def test_what_is_beside_the_home(self) -> None:
        beside = os.path.dirname(self.home)
        os.symlink(self.outside, os.path.join(beside, "link"))
        os.makedirs(os.path.join(beside, "a", "b"))
        os.mkfifo(os.path.join(beside, "a", "b", "pipe"))
        self.gone()

    def test_directories_too_deep_for_a_path(self) -> None:
        here = os.open(".", os.O_RDONLY)
        try:
            os.chdir(self.home)
            for _ in range(2000):
                os.mkdir("deeper")
                os.chdir("deeper")
            os.symlink(self.outside, "link")
        finally:
            os.fchdir(here)
            os.close(here)
        self.gone()

    def test_directories_nobody_may_enter(self) -> None:
        place = os.path.join(self.home, "a", "b", "c")
        os.makedirs(place)
        for _ in range(3):
            os.chmod(place, 0)
            place = os.path.dirname(place)
        self.gone()

    def test_what_a_crash_left_of_others_goes_at_the_next_start(self) -> None:
        for name in ("tmpa", "tmpb", "tmpc"):
            os.makedirs(os.path.join(self.root, name, "home", *("d" * 300)))
        thd_clean(self.root)
        self.assertFalse(os.path.exists(self.root))
        thd_clean(self.root)

    def test_a_root_that_is_a_link_is_not_followed(self) -> None:
        os.symlink(self.outside, f"{self.root}.link")
        with open(os.path.join(self.outside, "file"), "w"):
            pass
        thd_clean(f"{self.root}.link")
        self.assertEqual(os.listdir(self.outside), ["file"])
        self.assertFalse(os.path.lexists(f"{self.root}.link"))
