"""What readers find in a dataset: problems, and repairs that they made."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from detectron2.utils.logger import log_first_n

import flowdet
from flowdet.control_characters import escaped

__all__ = [
    "ON_PROBLEM",
    "Finding",
    "Findings",
    "check_command",
    "finding_lines",
    "log_once",
    "one_line",
]

# values of DATASETS.ON_PROBLEM; a dataset check also uses "list"
ON_PROBLEM = ("stop", "skip")
_LONG_WORD = re.compile(r"\S{501,}")
MAX_TEXT = 2000
# the installed command that checks a dataset
COMMAND = "flowdet-check-data"


@dataclass(frozen=True)
class Finding:
    """A problem in a dataset, or a repair of a harmless one.

    Attributes:
        kind: a few words that name the kind; findings are grouped by it.
        where: file and line, or file and id of the annotation.
        text: what is wrong and, unless it is obvious, what to do or what was done.
    """

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return one_line(f"{self.where}: {self.text}")


def one_line(text: str) -> str:
    """Returns a text for a message, with what names in a dataset may contain escaped or left out.

    Control characters, such as line breaks and those that move the cursor of a terminal, and bytes
    that are not UTF-8 are escaped. Words of more than 500 characters are shortened, and the middle
    of a text of more than 2,000.
    """
    text = _LONG_WORD.sub(lambda match: f"{match[0][:100]}... ({len(match[0]):,} characters)", text)
    if len(text) > MAX_TEXT:
        left_out = len(text) - MAX_TEXT
        text = f"{text[: MAX_TEXT - 200]} ... ({left_out:,} characters left out) ... {text[-200:]}"
    return escaped(text)


@cache
def check_command() -> str:
    """Returns the command that checks a dataset: a file of the checkout, or the installed one."""
    script = "tools/check_data.py"
    return script if Path(flowdet.__file__).parents[1].joinpath(script).is_file() else COMMAND


def log_once(message: str) -> None:
    """Logs a warning, but not a second time in this process, as a dataset may be read again."""
    log_first_n(logging.WARNING, message, name=__name__, key="message")


class Findings:
    """Collects the problems and repairs of a dataset. Equal findings are kept once.

    Args:
        folder: the folder of the dataset, for messages.
        on_problem: "stop" raises the first problem as a ValueError. "skip" collects problems, and
            the reader leaves out the box or image. "list" is like "skip", but collects also
            problems without which nothing can be read.

    Attributes:
        problems: boxes, images or files that cannot be used.
        repairs: entries that were changed or left out without loss of information.
    """

    def __init__(self, folder: Path, on_problem: str = "stop"):
        self.folder = folder
        self.on_problem = on_problem
        self._problems: dict[Finding, None] = {}
        self._repairs: dict[Finding, None] = {}
        self._num_logged = {"left out": 0, "repaired": 0}

    @property
    def problems(self) -> list[Finding]:
        return list(self._problems)

    @property
    def repairs(self) -> list[Finding]:
        return list(self._repairs)

    def problem(self, kind: str, where: object, text: str, fatal: bool = False) -> None:
        """Adds a problem.

        Args:
            kind, where, text: see `Finding`.
            fatal: whether the split cannot be used at all. Such a problem cannot be skipped.

        Raises:
            ValueError: with `on_problem` "stop"; with "skip" if the problem is fatal.
        """
        finding = Finding(kind, str(where), text)
        if self.on_problem == "stop" or (fatal and self.on_problem == "skip"):
            hint = f"{check_command()} --data {self.folder} lists all problems"
            hint += "" if fatal else "; DATASETS.ON_PROBLEM skip leaves such entries out"
            raise ValueError(f"{finding} ({one_line(hint)})")
        self._problems[finding] = None

    def repair(self, kind: str, where: object, text: str) -> None:
        """Adds a repair; arguments as in `Finding`."""
        self._repairs[Finding(kind, str(where), text)] = None

    def log(self, most: int = 3) -> None:
        """Logs the findings since the last call as warnings: per kind the count and `most`
        examples."""
        for title, findings in (("left out", self.problems), ("repaired", self.repairs)):
            new = findings[self._num_logged[title] :]
            self._num_logged[title] = len(findings)
            if new:
                lines = "\n".join(finding_lines(new, most, f"{check_command()} lists them"))
                log_once(f"{self.folder}: {len(new)} {title}\n{lines}")


def finding_lines(findings: Sequence[Finding], most: int, hint: str = "") -> list[str]:
    """Formats findings by kind, the most frequent kind first, with `most` examples of each.

    Args:
        findings: problems or repairs.
        most: the number of examples per kind.
        hint: how to see all; "" names the option `--examples` of the dataset check.
    """
    lines = []
    for kind, count in Counter(finding.kind for finding in findings).most_common():
        lines.append(f"{kind}: {count}")
        lines += [f"  {text}" for text in _examples(findings, kind)[:most]]
        if count > most:
            shown = hint or f"--examples {count} shows all"
            lines.append(f"  ... and {count - most} more ({shown})")
    return lines


def _examples(findings: Iterable[Finding], kind: str) -> list[str]:
    return [str(finding) for finding in findings if finding.kind == kind]
