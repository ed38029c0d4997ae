"""Parses xml files: with the line of every element, in many encodings, and with limits.

expat, Python's own parser, opens no other files. What else a malicious file could do, define
entities that stand for gigabytes and nest elements without end, is refused here.
"""

from __future__ import annotations

import codecs
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from xml.parsers import expat

__all__ = ["LINE", "parse_xml"]

# attribute of an XML element that stores the line where the element begins
LINE = "_line"
# the largest files are those of CVAT, with all images of a dataset
MAX_ELEMENTS, MAX_DEPTH = 5_000_000, 100
_ENCODING = re.compile(rb"""<\?xml[^>]*encoding\s*=\s*["']([\w.:-]+)["']""")
# codecs of Python that are no encodings of files; some need time that grows with the square
_NO_ENCODINGS = ("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7")


def parse_xml(path: Path) -> ET.Element:
    """Parses an xml file in any encoding that Python knows.

    Returns:
        The root. Tags are in lower case, without the prefix of a namespace. Every element stores
        its line as the attribute `LINE`.

    Raises:
        ValueError: the file is not XML, is not in the encoding that it declares, declares entities,
            or has too many or too deeply nested elements. The message starts with
            "<path>:<line>: ".
    """
    return _Parser(path).parse()


class _Parser:
    def __init__(self, path: Path):
        self._path, self._builder = path, ET.TreeBuilder()
        self._parser = parser = expat.ParserCreate("utf-8")
        self._elements = self._depth = 0
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._builder.data
        parser.EntityDeclHandler = parser.SkippedEntityHandler = self._entity

    def parse(self) -> ET.Element:
        try:
            self._parser.Parse(_utf8(self._path), True)
        except expat.ExpatError as error:
            raise self._error(error.lineno, expat.ErrorString(error.code)) from error
        return self._builder.close()

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        line = self._parser.CurrentLineNumber
        self._elements += 1
        self._depth += 1
        if self._elements > MAX_ELEMENTS or self._depth > MAX_DEPTH:
            limit = (
                f"{MAX_ELEMENTS:,} elements" if self._depth <= MAX_DEPTH else f"{MAX_DEPTH} levels"
            )
            raise self._error(line, f"the file has more than {limit}")
        self._builder.start(_plain(tag), attributes).set(LINE, str(line))

    def _end(self, tag: str) -> None:
        self._depth -= 1
        self._builder.end(_plain(tag))

    def _entity(self, *_: object) -> None:
        line = self._parser.CurrentLineNumber
        raise self._error(line, "the file has entities of its own: write their text instead")

    def _error(self, line: int, text: str) -> ValueError:
        return ValueError(f"{self._path}:{line}: {text}")


def _plain(tag: str) -> str:
    return tag.rpartition(":")[2].lower()


def _utf8(path: Path) -> bytes:
    """Returns the text of an xml file in UTF-8; expat itself knows few encodings."""
    data = path.read_bytes()
    match = _ENCODING.match(data.lstrip(codecs.BOM_UTF8)[:200])
    encoding = match[1].decode() if match else "utf-8"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif data.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    elif data.startswith(b"<?xml") and encoding.lower().startswith("utf-16"):
        # the declaration is wrong, as it could not be read otherwise
        encoding = "utf-8"
    try:
        if codecs.lookup(encoding).name in _NO_ENCODINGS:
            raise LookupError
        return data.decode(encoding).encode()
    except LookupError as error:
        raise ValueError(f"{path}:1: the encoding {encoding!r} is unknown: use UTF-8") from error
    except UnicodeError as error:
        line = data[: getattr(error, "start", 0)].count(b"\n") + 1
        hint = "" if match else ", which an xml file has if it declares no encoding"
        raise ValueError(
            f"{path}:{line}: the file is not in the encoding {encoding}{hint}: save it as UTF-8, "
            'or declare the encoding, e.g. <?xml version="1.0" encoding="iso-8859-1"?>'
        ) from error
