"""The words of notices: what a text may say, how it is filled in and wrapped, and which language is whose."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.wording import built_in
from qmailpy.wire.wording import LANGUAGES, TEXT_CHARACTERS, language_of, parse, wrapped

GOOD = "# remark\n[failure]\nSubject: No\n\nhere ${hostname}\n\n${recipients}\n"
GOOD += "[advice 1.]\nAsk.\n[advice 1.2]\nAsk again.\n"


class ReadingTests(SynchronousTestCase):
    def test_what_is_shipped_is_whole(self) -> None:
        """And both languages have the same sections with the same variables."""
        texts = [built_in(language).sections for language in LANGUAGES]
        for words in map(built_in, LANGUAGES):
            self.assertEqual(words.missing(), [])
        self.assertEqual(set(texts[0]), set(texts[1]))
        for name in texts[0]:
            one, two = ["".join(text[name]) for text in texts]
            for variable in (
                "hostname",
                "recipients",
                "until",
                "address",
                "said",
                "host",
                "advice",
                "original",
                "final",
            ):
                self.assertEqual("${" + variable + "}" in one, "${" + variable + "}" in two, (name, variable))

    def test_a_text_is_read_and_may_be_a_part(self) -> None:
        words, problems = parse(GOOD)
        self.assertEqual(problems, [])
        self.assertEqual(words.subject("failure"), "No")
        self.assertEqual(list(words.body("failure", {"hostname": "mx", "recipients": "R"})), ["", "here mx", "", "R"])
        self.assertEqual((words.advice("1.1"), words.advice("1.25"), words.advice("9.9")), ("Ask.", "Ask again.", ""))
        self.assertEqual(words.over(built_in("en")).missing(), [])
        self.assertEqual(words.over(built_in("en")).subject("failure"), "No")

    def test_each_mistake_is_told_with_its_line(self) -> None:
        for text, line, said in (
            ("hello\n", 1, "before the first section"),
            ("[hello]\nx\n", 1, "is no section"),
            (GOOD + "[advice 1.]\nx\n", 12, "twice"),
            ("[somewhere]\n${hostname}\n", 2, "no variable of [somewhere]; known are none"),
            ("[failure]\nSubject: x\n${recipients} ${until}\n", 3, "${until} is no variable"),
            ("[failure]\n${recipients}\n", 2, "must begin with a line Subject:"),
            ("[failure]\nSubject: ${hostname}\n${recipients}\n", 2, "must begin with a line Subject:"),
            ("[failure]\nSubject: x\nhello\n", 0, "lacks ${recipients}"),
            ("[somewhere]\n\n", 0, "is empty"),
            ("[somewhere]\nx\x1b[2Jy\n", 2, "control characters"),
            ("x" * (TEXT_CHARACTERS + 1), 0, "longer than"),
        ):
            _, problems = parse(text)
            self.assertEqual([number for number, _ in problems], [line], problems)
            self.assertIn(said, problems[0][1])

    def test_a_line_whose_variables_are_all_empty_is_left_out(self) -> None:
        words, _ = parse("[recipient failed]\n${address}:\n${advice}\n${host} ${advice}\nend\n")
        self.assertEqual(list(words.body("recipient failed", {"address": "a", "host": "h"})), ["a:", "h ", "end"])

    def test_what_a_variable_holds_is_not_looked_at_again(self) -> None:
        words, _ = parse(GOOD)
        self.assertIn(
            "here ${recipients}", list(words.body("failure", {"hostname": "${recipients}", "recipients": "R"}))
        )


class WrappingTests(SynchronousTestCase):
    def test_lines_fit_and_nothing_is_lost(self) -> None:
        """English at blanks; Chinese anywhere but before what closes a sentence."""
        english = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
        chinese = "邮件已转交给另一个系统\uff0c" * 12
        found = wrapped([english, "", "", chinese])
        self.assertEqual(" ".join(found[: found.index("")]), english)
        self.assertEqual("".join(found[found.index("") + 1 :]), chinese)
        self.assertEqual(found.count(""), 1)
        for line in found:
            self.assertLessEqual(len(line.encode("gb18030")), 78)
            self.assertFalse(line.startswith("\uff0c"))

    @given(st.text(max_size=3000))
    def test_no_text_breaks_it(self, text: str) -> None:
        line = " ".join(text.split())
        found = wrapped([line])
        self.assertEqual("".join(found).replace(" ", ""), line.replace(" ", ""))
        self.assertTrue(all(len(each) <= 1100 for each in found))

    def test_time_is_linear(self) -> None:
        began = time.process_time()
        wrapped(["字" * 200000, "x" * 200000, "a " * 100000, "\uff0c" * 200000])
        self.assertLess(time.process_time() - began, 5)


class LanguageTests(SynchronousTestCase):
    def test_it_is_told_by_the_header_alone(self) -> None:
        for fields, language in (
            ({}, ""),
            ({"content-language": "zh-CN"}, "zh"),
            ({"content-language": "en, zh"}, "en"),
            ({"content-language": "de"}, ""),
            ({"content-language": "zho"}, ""),
            ({"content-type": 'text/plain; charset="GB2312"'}, "zh"),
            ({"content-type": "text/plain; charset=utf-8"}, ""),
            ({"subject": "=?big5?B?pKQ=?="}, "zh"),
            ({"subject": "=?GBK*zh?Q?=D6?="}, "zh"),
            ({"content-language": "en", "subject": "=?gbk?Q?=D6?="}, "en"),
        ):
            self.assertEqual(language_of(fields), language, fields)
