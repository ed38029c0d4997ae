"""Finds installed fonts for texts that the default font cannot draw, such as Chinese class names.

Matplotlib draws the labels of boxes, PIL the titles of tiles. Characters that no installed font has
are drawn as `MISSING`, and one log line names the texts that contain them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import cache, lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from PIL import ImageDraw, ImageFont

if TYPE_CHECKING:
    # matplotlib is loaded when a text is drawn
    from matplotlib import font_manager

logger = logging.getLogger(__name__)

# The character drawn in place of one that no installed font has; matplotlib's own font has it.
MISSING = "\N{WHITE SQUARE}"
DEFAULT_FAMILY = "sans-serif"
NORMAL_WEIGHT = 400
# Parts of the names, without spaces, of fonts that are no help: the first has the same box for
# every character, and the second consists of colored bitmaps that matplotlib cannot draw.
UNUSABLE = ("LastResort", "ColorEmoji")
# the number of texts that the note names
EXAMPLES = 10

# the missing characters that a note has named; each is reported once per process
_reported: set[str] = set()


def names_without_font(names: Iterable[str]) -> list[str]:
    """Returns the names with a character that no installed font has."""
    return [name for name in names if any(font_family(c) is None for c in name)]


def font_note(names: Iterable[str]) -> str | None:
    """Returns a note on the names that cannot be drawn and the fonts to install, None if all can.

    The drawing functions do not log what a returned note has named.
    """
    names = names_without_font(names)
    if not names:
        return None
    _reported.update(_missing_characters(names))
    examples = ", ".join(repr(name) for name in names[:EXAMPLES])
    more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return (
        f"no installed font has all characters of {examples}{more}; pictures show {MISSING} "
        "instead: install a font, on Debian and Ubuntu the package fonts-noto-cjk (Chinese, "
        "Japanese, Korean), fonts-noto-core (other scripts) or fonts-symbola (symbols, emoji)"
    )


def log_font_note(texts: Iterable[str]) -> None:
    """Logs `font_note` of the texts with missing characters that have not been reported yet."""
    note = font_note([text for text in texts if _missing_characters([text]) - _reported])
    if note:
        logger.warning(note)


def _missing_characters(texts: Iterable[str]) -> set[str]:
    return {c for c in set().union(*texts) if font_family(c) is None}


def drawable(text: str) -> str:
    """Replaces the characters that no installed font has by `MISSING`."""
    return "".join(c if font_family(c) else MISSING for c in text)


def font_families(text: str) -> list[str]:
    """Returns the font families that together have all characters of a drawable text.

    Matplotlib takes each character from the first family that has it; the first is the default.
    """
    return list(dict.fromkeys([DEFAULT_FAMILY, *map(font_family, text)]))


@cache
def font_family(character: str) -> str | None:
    """Returns the first installed font family that has the character; None if there is none."""
    if ord(character) in _code_points(DEFAULT_FAMILY):
        return DEFAULT_FAMILY
    return next((f for f in _installed_families() if ord(character) in _code_points(f)), None)


@cache
def _code_points(family: str) -> frozenset[int]:
    """Returns the Unicode code points of a font family."""
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(_font_path(family)).get_charmap())


def _font_path(family: str) -> str:
    """Returns the font file that matplotlib takes for a family."""
    from matplotlib import font_manager

    weight = NORMAL_WEIGHT if family == DEFAULT_FAMILY else _installed_families()[family]
    # in a list, because matplotlib parses a name that is given alone as a pattern
    return font_manager.findfont(font_manager.FontProperties(family=[family], weight=weight))


@lru_cache(maxsize=1)
def _installed_families() -> dict[str, int]:
    """Returns the installed font families with the weight nearest to normal, best ones first."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    known = {entry.fname for entry in manager.ttflist}
    # matplotlib keeps its list of fonts in a file, without the fonts that were installed later
    for path in set(font_manager.findSystemFonts()) - known:
        # a font that cannot be read is left out, as in matplotlib's list
        with suppress(Exception):
            manager.addfont(path)
    weights = {
        entry.name: font_manager.weight_dict.get(entry.weight, entry.weight)
        for entry in sorted(manager.ttflist, key=_distance_from_regular, reverse=True)
        if not any(part in entry.name.replace(" ", "") for part in UNUSABLE)
    }
    return dict(sorted(weights.items(), key=lambda item: _fallback_order(*item)))


def _distance_from_regular(entry: font_manager.FontEntry) -> tuple[bool, int]:
    """Sorts the fonts of a family: upright before italic ones, then by weight."""
    from matplotlib import font_manager

    weight = font_manager.weight_dict.get(entry.weight, entry.weight)
    return entry.style != "normal", abs(weight - NORMAL_WEIGHT)


def _fallback_order(family: str, weight: int) -> tuple[bool, bool, bool, str]:
    """Sorts font families: normal weight first, then sans-serif fonts, monospaced ones last."""
    return weight != NORMAL_WEIGHT, "Sans" not in family, "Mono" in family, family


class TitleFont:
    """Draws texts with PIL, each character with a font that has it.

    Args:
        size: font size in pixels.
    """

    def __init__(self, size: int):
        self.size = size

    def getlength(self, text: str) -> float:
        """Returns the width of a text in pixels."""
        return sum(font.getlength(run) for font, run in self._runs(text))

    def draw(self, pen: ImageDraw.ImageDraw, position: tuple[float, float], text: str) -> None:
        """Draws a black text; `position` is the middle of its left edge, (x, y) in pixels."""
        x, y = position
        runs = self._runs(text)
        if len(runs) == 1:
            pen.text((x, y), text, fill="black", font=runs[0][0], anchor="lm")
            return
        for font, run in runs:
            # fonts differ in height: all runs have the baseline of the first
            ascent, descent = runs[0][0].getmetrics()
            baseline = y + (ascent - descent) / 2
            pen.text((x, baseline), run, fill="black", font=font, anchor="ls")
            x += font.getlength(run)

    def _runs(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        """Divides a text into parts that one font can draw."""
        if text.isascii():
            return [(ImageFont.load_default(self.size), text)]
        groups = groupby(drawable(text), font_family)
        return [(_pil_font(family, self.size), "".join(run)) for family, run in groups]


@cache
def _pil_font(family: str, size: int) -> ImageFont.FreeTypeFont:
    path = _font_path(family)
    # a collection (.ttc) has several faces; matplotlib before 3.11 uses the first
    return ImageFont.truetype(path, size, index=getattr(path, "face_index", 0))
