"""Where the words of notices come from: what is shipped, and what a home says otherwise."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.wording import FOLDER, built_in, thd_wordings


class HomeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(self.home, FOLDER))

    def write(self, language: str, octets: bytes) -> str:
        path = os.path.join(self.home, FOLDER, f"{language}.txt")
        with open(path, "wb") as target:
            target.write(octets)
        return path

    def test_without_files_they_are_those_that_are_shipped(self) -> None:
        words, problems = thd_wordings(os.path.join(self.home, "nowhere"))
        self.assertEqual(problems, [])
        self.assertEqual(words["zh"].sections, built_in("zh").sections)

    def test_a_home_may_say_some_of_it_otherwise(self) -> None:
        self.write("en", b"[somewhere]\nthe other side\n")
        words, problems = thd_wordings(self.home)
        self.assertEqual(problems, [])
        self.assertEqual(words["en"].phrase("somewhere", {}), "the other side")
        self.assertEqual(words["en"].subject("delay"), "Your message is delayed")
        self.assertEqual(words["zh"].sections, built_in("zh").sections)

    def test_a_bad_file_is_told_of_and_not_used(self) -> None:
        """File, line and remedy; the other language is not touched."""
        path = self.write("en", b"[somewhere]\nfar away\n[said by]\n${hots} said\n")
        self.write("zh", "[somewhere]\n远方\n".encode())
        words, [problem] = thd_wordings(self.home)
        self.assertEqual(str(problem), f"{path}:4: ${{hots}} is no variable of [said by]; known are host, reply")
        self.assertEqual(words["en"].sections, built_in("en").sections)
        self.assertEqual(words["zh"].phrase("somewhere", {}), "远方")
        path = self.write("en", b"[somewhere]\n\xff\n")
        self.assertIn("is not UTF-8", str(thd_wordings(self.home)[1][0]))
        os.unlink(path)
        os.mkdir(path)
        self.assertIn("cannot be read", str(thd_wordings(self.home)[1][0]))
