"""Class names in scripts that the default font lacks, with and without a font that has them."""

import logging
import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image, ImageDraw

from flowdet.visualization import fonts
from flowdet.visualization.drawing import (
    TITLE_FONT,
    DetectionVisualizer,
    DrawnBox,
    contact_sheet,
    draw_boxes,
)
from flowdet.visualization.fonts import TitleFont, font_note, log_font_note, names_without_font

CAT, DOG = "猫", "狗"
# the first is not assigned by Unicode, the others are control characters
IN_NO_FONT = ["\u0378", "\t", "\n"]


@pytest.fixture(scope="module")
def cat_font(tmp_path_factory):
    """A font file with one character, "猫", which is a filled square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in [(0, 800), (800, 800), (800, 0)]:
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord(CAT): "cat"})
    builder.setupGlyf({".notdef": square, "cat": square})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1100, descent=-300)
    builder.setupNameTable({"familyName": "Cat Sans", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    path = tmp_path_factory.mktemp("fonts") / "CatSans.ttf"
    builder.save(path)
    return str(path)


@pytest.fixture
def install(monkeypatch):
    """Sets the font files that are installed in addition to those of matplotlib."""
    manager = font_manager.fontManager
    bundled = [entry for entry in manager.ttflist if "mpl-data" in entry.fname]
    caches = [fonts.font_family, fonts._code_points, fonts._installed_families, fonts._pil_font]

    def clear():
        for cache in caches:
            cache.cache_clear()

    def set_files(*paths):
        monkeypatch.setattr(manager, "ttflist", list(bundled))
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(paths))
        monkeypatch.setattr(fonts, "_reported", set())
        clear()

    yield set_files
    monkeypatch.undo()
    clear()


def drawn_label(label):
    """Draws a label on a black image; returns the brightness of its pixels."""
    picture = draw_boxes(
        Image.new("RGB", (320, 320)), [DrawnBox((20, 90, 90, 99), label, (1, 1, 1))]
    )
    return np.asarray(picture).max(axis=2)[:80]


def drawn_title(title):
    """Draws a title on white; returns the darkness of its pixels."""
    sheet = contact_sheet([Image.new("RGB", (320, 10), "white")], [title])
    return 255 - np.asarray(sheet).min(axis=2)[: 2 * TITLE_FONT]


def filled(pixels):
    """The number of bright pixels that have only bright neighbors: letters have thin lines."""
    bright = pixels > 150
    windows = np.lib.stride_tricks.sliding_window_view(bright, (5, 5))
    return windows.all(axis=(2, 3)).sum()


def test_names_without_a_font(install):
    names = ["cat", "café", "Собака", "كلب", "שלום", CAT, f"{CAT} 1", *IN_NO_FONT]
    install()
    assert names_without_font(names) == [CAT, f"{CAT} 1", *IN_NO_FONT]
    assert font_note(["cat", "café"]) is None


def test_a_font_installed_after_the_font_list_is_used(install, cat_font):
    install(cat_font)
    assert names_without_font([CAT, DOG, *IN_NO_FONT]) == [DOG, *IN_NO_FONT]
    assert fonts.font_families(f"{CAT} 9%") == ["sans-serif", "Cat Sans"]
    assert fonts.font_families("cat 9%") == ["sans-serif"]


@pytest.mark.parametrize("draw", [drawn_label, drawn_title])
def test_text_is_drawn_with_the_font_that_has_it(install, cat_font, draw):
    install()
    assert filled(draw(f"a {CAT} b")) == 0
    assert np.array_equal(draw(f"a {CAT} b"), draw(f"a {DOG} b"))
    install(cat_font)
    assert filled(draw(f"a {CAT} b")) > 20
    assert filled(draw(f"a {DOG} b")) == 0


def test_an_unreadable_font_is_left_out(install, tmp_path, cat_font):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    install(str(broken), cat_font)
    assert names_without_font([CAT, DOG]) == [DOG]


def test_one_log_line_instead_of_warnings(install, caplog):
    install()
    names = ["cat", CAT, DOG, *IN_NO_FONT]
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        DetectionVisualizer(names)
        for name in names:
            drawn_label(f"{name} 95%")
            drawn_title(f"val: {name}.png")
    (line,) = caplog.messages
    assert repr(CAT) in line and repr(DOG) in line and "'cat'" not in line
    assert "fonts-noto-cjk" in line and "\n" not in line


def test_new_missing_characters_are_logged(install, caplog):
    install()
    log_font_note([CAT])
    log_font_note([CAT * 2, "cat"])
    assert len(caplog.messages) == 1
    log_font_note([CAT, DOG])
    assert repr(DOG) in caplog.messages[1] and repr(CAT) not in caplog.messages[1]


def test_a_returned_note_is_not_logged(install, caplog):
    install()
    note = font_note([CAT])
    assert repr(CAT) in note and note == font_note([CAT])
    DetectionVisualizer([CAT])
    drawn_label(CAT)
    assert not caplog.messages


def test_a_note_names_some_of_many_names(install):
    install()
    note = font_note([f"{CAT}{i}" for i in range(100)])
    assert f"'{CAT}0'" in note and "and 90 more" in note and f"'{CAT}99'" not in note


def test_title_width_is_the_drawn_width(install, cat_font):
    install(cat_font)
    font, title = TitleFont(TITLE_FONT), f"{CAT}é{CAT}"
    page = Image.new("RGB", (200, 40), "white")
    font.draw(ImageDraw.Draw(page), (10, 20), title)
    columns = np.flatnonzero(np.asarray(page).min(axis=(0, 2)) < 128)
    # a square ends a fifth of its width before the next letter
    expected = 10 + font.getlength(title) - 0.2 * TITLE_FONT
    assert columns[0] == pytest.approx(10, abs=1)
    assert columns[-1] == pytest.approx(expected, abs=1.5)


def test_dollar_signs_are_no_formula(install, caplog):
    install()
    label = drawn_label("cost $a_1$ or $a^$")
    assert label.any() and not np.array_equal(label, drawn_label("cost a1 or a"))


def test_wide_letters_stay_in_the_image(install, cat_font):
    install(cat_font)
    image = Image.new("RGB", (320, 320))
    box = DrawnBox((300, 100, 318, 150), CAT * 8, (1, 1, 1))
    bright = np.asarray(draw_boxes(image, [box])).max(axis=2)[:98] > 150
    runs = np.diff(bright[bright.any(axis=1).argmax() + 3].astype(int))
    assert (runs == 1).sum() == (runs == -1).sum() == 8
