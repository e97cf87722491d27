"""
The words of notices: what comes with qmailpy (C{notices/en.txt}, C{notices/zh.txt} beside this module), and what the
home says otherwise in HOME/etc/notices (docs/notices.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from qmailpy.config.problems import Problem
from qmailpy.wire.wording import LANGUAGES, TEXT_CHARACTERS, Wording, parse

FOLDER = "etc/notices"


@cache
def built_in(language: str) -> Wording:
    """The words as they are shipped; C{language}: of L{LANGUAGES}."""
    return parse(files("qmailpy.config").joinpath("notices", f"{language}.txt").read_text("utf-8"))[0]


def thd_wordings(home: str) -> tuple[Mapping[str, Wording], list[Problem]]:
    """
    The words of each language, those of the home over those that are shipped. Blocks.

    @return: also what is wrong with the home's; a file with anything wrong is as if it were not there.
    """
    found: dict[str, Wording] = {}
    problems: list[Problem] = []
    for language in LANGUAGES:
        shipped = built_in(language)
        own, wrong = _own(os.path.join(home, FOLDER, f"{language}.txt"))
        found[language] = shipped if wrong else own.over(shipped)
        problems += wrong
    return found, problems


def _own(path: str) -> tuple[Wording, list[Problem]]:
    try:
        with open(path, encoding="utf-8") as source:
            text = source.read(TEXT_CHARACTERS + 1)
    except FileNotFoundError:
        return Wording({}), []
    except UnicodeDecodeError:
        return Wording({}), [Problem(file=path, line=0, where="", text="is not UTF-8; right would be text in UTF-8")]
    except OSError as error:
        why = f"cannot be read: {error.strerror or error}; right would be a file the daemon's user may read"
        return Wording({}), [Problem(file=path, line=0, where="", text=why)]
    wording, wrong = parse(text)
    return wording, [Problem(file=path, line=line, where="", text=said) for line, said in wrong]
