"""Converts values to the types of their config keys."""

from __future__ import annotations

import ast
import math
import numbers
import os
from collections.abc import Callable

from flowdet.config.errors import ConfigError
from flowdet.config.schema import KEYS

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")

_MAY_BE_INFINITE = ("SOLVER.CLIP_GRADIENTS.NORM_TYPE",)

_EXAMPLES = {str: ["a", "b"], int: [1, 2], float: [0.5, 1.0], bool: [True, False]}


class _WrongType(Exception):
    """The value cannot be converted; the message says what the value must be."""


def as_lists(value: object) -> object:
    """Converts tuples to lists, also inside others, because YAML has only lists."""
    return [as_lists(x) for x in value] if isinstance(value, tuple | list) else value


def typed_value(key: str, value: object, default: object, source: str = "") -> object:
    """Converts a value to the type of its key.

    Text is read as a Python literal. Besides, names in lists need no quotes (`[res4]`, `res4`), a
    text is taken as it is typed (`OUTPUT_DIR 2024`), integers are valid for keys of floats, and
    1e4 is valid for keys of integers.

    Args:
        key: name of the key, such as `SOLVER.BASE_LR`.
        value: text of the command line, or a value from a config file or from Python.
        default: the default of the key, which has its type.
        source: path of the config file, for the message; "" for an override.

    Returns:
        The value, with the type of the default. None stays None if the default is None.

    Raises:
        ValueError: the value does not have the type. The message has the key, the value and an
            example.
    """
    try:
        return _convert(key, value, default)
    except _WrongType as error:
        example = typed_example(key, default)
        typed = f"{key.rpartition('.')[2]}: {example}" if source else f"{key} {quoted(example)}"
        where = f"{source}: " if source else ""
        raise ConfigError(
            f"{where}{key} is {value!r}, but must be {error}; write, for example, {typed}"
        ) from error


def typed_example(key: str, default: object) -> str:
    """Returns a valid value of a key as it is written in a config file."""
    if isinstance(default, (list, tuple)) and not default:
        default = _EXAMPLES.get(_element_type(key), [1, 2])
    if isinstance(default, str):
        return default or "text"
    return str([*default] if isinstance(default, tuple) else 0.0 if default is None else default)


def _element_type(key: str) -> type | None:
    """Returns the type of the elements of a list whose default is empty; None if it has any."""
    return KEYS[key].element if key in KEYS else None


def quoted(example: str) -> str:
    """Quotes an example for the command line if it contains characters of the shell."""
    return f'"{example}"' if set(example) & set("[]'() ") else example


def _convert(key: str, value: object, default: object) -> object:
    if isinstance(value, dict):
        raise _WrongType(f"{_name(default)}, not a group of keys")
    parsed = _literal(value)
    if isinstance(default, str):
        return _text(value, parsed)
    if isinstance(default, (list, tuple)):
        return type(default)(_elements(key, value, parsed, default))
    if default is None:
        return None if parsed is None else _float(parsed)
    converted = _SCALARS[type(default)](parsed)
    is_finite = isinstance(converted, int) or math.isfinite(converted)
    if not is_finite and key not in _MAY_BE_INFINITE:
        raise _WrongType("a finite number")
    return converted


def _literal(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value.strip())
    # text, or a literal that is nested too deeply
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _text(value: object, parsed: object) -> str:
    if isinstance(parsed, (str, os.PathLike)):
        return os.fspath(parsed)
    if parsed is None:
        return ""
    # a folder named 2024
    if isinstance(value, str):
        return value
    raise _WrongType("a text, in quotes")


def _bool(parsed: object) -> bool:
    word = str(parsed).lower()
    if isinstance(parsed, float) or word not in (*_TRUE, *_FALSE):
        raise _WrongType("True or False")
    return word in _TRUE


def _int(parsed: object) -> int:
    is_integral = isinstance(parsed, float) and parsed.is_integer()
    if isinstance(parsed, bool) or not (isinstance(parsed, numbers.Integral) or is_integral):
        raise _WrongType("an integer")
    return int(parsed)


def _float(parsed: object) -> float:
    if isinstance(parsed, bool) or not isinstance(parsed, (numbers.Real, str)):
        raise _WrongType("a number, with a decimal point")
    try:
        return float(parsed)
    # not a number, or an integer with hundreds of digits
    except (ValueError, OverflowError) as error:
        raise _WrongType("a number, with a decimal point") from error


_SCALARS: dict[type, Callable] = {bool: _bool, int: _int, float: _float}
_NAMES = {str: "a text", bool: "True or False", int: "an integer", float: "a number"}

_PLURALS = {bool: " of True and False", int: " of integers", float: " of numbers"}


def _name(default: object) -> str:
    return "a list" if isinstance(default, (list, tuple)) else _NAMES.get(type(default), "a number")


def _elements(key: str, value: object, parsed: object, default: list | tuple) -> list:
    """Converts the elements of a list. A single value is a list of one."""
    kind = type(default[0]) if default else _element_type(key)
    if kind is str:
        return _words(value, parsed)
    if not isinstance(parsed, (list, tuple)):
        if kind not in (int, float) or isinstance(parsed, (bool, str)) or parsed is None:
            raise _WrongType(f"a list{_PLURALS.get(kind, '')}")
        parsed = [parsed]
    if kind not in _SCALARS:
        return list(parsed)
    # integers stay integers in lists of numbers: PIXEL_MEAN [123, 116, 103]
    return [_number(x) if kind is float else _element(_SCALARS[kind], x) for x in parsed]


def _element(convert: Callable, x: object) -> object:
    try:
        return convert(x)
    except _WrongType as error:
        raise _WrongType(f"a list whose elements are each {error}") from error


def _number(x: object) -> int | float:
    if isinstance(x, bool) or not isinstance(x, numbers.Real) or not math.isfinite(x):
        raise _WrongType("a list of numbers")
    return x


def _words(value: object, parsed: object) -> list[str]:
    """Returns the words of a list of text, whose quotes and brackets may be missing."""
    if isinstance(parsed, (list, tuple)) and all(isinstance(x, str) for x in parsed):
        return list(parsed)
    text = parsed if isinstance(parsed, str) else value
    if not isinstance(text, str):
        raise _WrongType("a list of texts, each in quotes")
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("[]", "()"):
        inner = inner[1:-1]
    words = [word.strip().strip("'\"") for word in inner.split(",")]
    if not words[-1]:
        words.pop()
    if not all(words) or set(inner) & set("[](){}"):
        raise _WrongType("a list of texts, each in quotes")
    return words
