"""Text files are read and written as UTF-8, also where the locale has another encoding."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [*ROOT.glob("*.py"), *(ROOT / "flowdet").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
_OPENERS = ("open", "fdopen", "read_text", "write_text")


def calls_without_encoding(source):
    """The lines of calls that open a text file in the encoding of the locale."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function, keywords = node.func, {x.arg: x.value for x in node.keywords}
        is_method = isinstance(function, ast.Attribute)
        name = function.attr if is_method else getattr(function, "id", "")
        if name not in _OPENERS or "encoding" in keywords:
            continue
        # read_text("utf-8", "replace")
        if name == "read_text" and node.args:
            continue
        # a path, not a mode: another kind of file
        if is_method and name == "open" and node.args and not isinstance(_first(node), str):
            continue
        # functions of flowdet with this name
        if not is_method and name != "open":
            continue
        mode = keywords.get("mode", [*node.args[0 if is_method else 1 :], None][0])
        if name == "open" and "b" in str(getattr(mode, "value", "")):
            continue
        yield node.lineno


def _first(call):
    return getattr(call.args[0], "value", None)


def test_the_encoding_is_not_that_of_the_locale():
    sources = {path: path.read_text(encoding="utf-8") for path in FILES}
    found = [
        f"{path}:{line}"
        for path, source in sources.items()
        if any(f"{name}(" in source for name in _OPENERS)
        for line in calls_without_encoding(source)
    ]
    assert found == []


def test_what_is_found():
    source = "open(a)\nopen(a, 'rb')\nopen(a, 'w', encoding='x')\na.read_text()\na.open('wb')\n"
    assert [*calls_without_encoding(source + "a.write_text(b)")] == [1, 4, 6]
