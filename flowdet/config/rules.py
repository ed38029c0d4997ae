"""What the value of a config key must be: ranges, names, lists.

The type of a value is that of the key's default (`flowdet.engine.config_types`). A rule is applied
to values that have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import torch
from detectron2.utils.registry import Registry

from flowdet.control_characters import NO_TEXT

# parts of detectron2 for boxes with an angle, which no dataset of flowdet has
_FOR_ROTATED_BOXES = {"RRPN", "RotatedAnchorGenerator", "RROIHeads"}


@dataclass(frozen=True)
class Rule:
    """What the value of a key must be.

    Attributes:
        text: completes "must be ...".
        accepts: returns whether a value is valid.
        names: the valid names, of which more may be registered later; None for other rules.
    """

    text: str
    accepts: Callable[[object], bool]
    names: Callable[[], Iterable[str]] | None = None

    @property
    def known_names(self) -> str:
        """The valid names in parentheses; "" if the rule has none."""
        return f" ({', '.join(sorted(self.names()))})" if self.names else ""


def at_least(low: float, high: float = math.inf) -> Rule:
    """The value is a number of at least `low`, and at most `high`."""
    return Rule(f"at least {low:g}{_at_most(high)}", lambda x: low <= x <= high)


def from_to(low: float, high: float) -> Rule:
    """The value is a number from `low` to `high`."""
    return Rule(f"from {low:g} to {high:g}", lambda x: low <= x <= high)


def above(low: float, high: float = math.inf) -> Rule:
    """The value is a number above `low`, and at most `high`."""
    return Rule(f"above {low:g}{_at_most(high)}", lambda x: low < x <= high)


def from_to_below(low: float, high: float) -> Rule:
    """The value is a number from `low` to less than `high`."""
    return Rule(f"from {low:g} to below {high:g}", lambda x: low <= x < high)


def between(low: float, high: float) -> Rule:
    """The value is a number above `low` and below `high`."""
    return Rule(f"above {low:g} and below {high:g}", lambda x: low < x < high)


def _at_most(high: float) -> str:
    return "" if high == math.inf else f" and at most {high}"


def one_of(*values: object) -> Rule:
    """The value is one of some values."""
    listed = ", ".join(repr(x) if x == "" else str(x) for x in values)
    return Rule(f"one of {listed}", lambda x: x in values)


def registered(registry: Collection[str] | Registry, optional: bool = False) -> Rule:
    """The value is a registered name, or "" if that is `optional`.

    The names are read when the rule is used, because `IMPORTS` may register further parts.
    """

    def names() -> set[str]:
        pairs = ((x, None) if isinstance(x, str) else x for x in registry)
        return {name for name, _ in pairs} - _FOR_ROTATED_BOXES

    return Rule("a registered name", lambda x: x in names() or (optional and x == ""), names)


def each(rule: Rule, count: int | None = None, optional: bool = False) -> Rule:
    """The value is a list whose elements fulfill a rule.

    Args:
        rule: the rule of an element.
        count: number of elements; None for any number.
        optional: whether the list may be empty.
    """

    def accepts(values: Iterable) -> bool:
        values = list(values)
        right_count = len(values) == count if count else bool(values) or optional
        return right_count and all(map(rule.accepts, values))

    least = "a list of values" if optional else "a list of at least one value"
    return Rule(f"{f'{count} values' if count else least}, each {rule.text}", accepts)


def increasing(rule: Rule, unit: str) -> Rule:
    """The value is a list, maybe empty, of increasing numbers of a unit that fulfill a rule."""

    def accepts(values: Iterable) -> bool:
        values = list(values)
        return all(map(rule.accepts, values)) and values == sorted(set(values))

    return Rule(f"a list of increasing numbers of {unit}, each {rule.text}", accepts)


def increasing_pair(rule: Rule) -> Rule:
    """The value is two numbers that fulfill a rule, of which the second is larger."""

    def accepts(values: Iterable) -> bool:
        values = list(values)
        return len(values) == 2 and all(map(rule.accepts, values)) and values[0] < values[1]

    return Rule(f"2 values, each {rule.text}, of which the second is larger", accepts)


def _is_number(x: object) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)


def _are_anchors(values: Iterable) -> bool:
    """Whether values are positive numbers, or a list of such a list for every feature map."""
    values = list(values)
    nested = [isinstance(x, (list, tuple)) for x in values]
    rows = values if any(nested) else [values]
    return (all(nested) or not any(nested)) and all(
        len(row) and all(_is_number(x) and 0 < x <= MOST for x in row) for row in rows
    )


def _are_thresholds(values: Iterable) -> bool:
    values = list(values)
    return bool(values) and values == sorted(values) and 0 < values[0] and values[-1] <= 1


def _are_labels(values: Iterable) -> bool:
    values = list(values)
    return {0, 1} <= {*values} <= {-1, 0, 1} and values[-1] == 1 != values[0]


def _are_box_weights(values: Iterable) -> bool:
    return all(
        isinstance(row, (list, tuple))
        and len(row) == 4
        and all(_is_number(x) and 0 < x <= MOST for x in row)
        for row in values
    ) and bool(values)


def _are_results(rows: Iterable) -> bool:
    """Whether values are rows of task, metric, expected value and tolerance."""
    return all(
        isinstance(row, (list, tuple))
        and len(row) == 4
        and all(isinstance(x, str) for x in row[:2])
        and all(map(_is_number, row[2:]))
        for row in rows
    )


def device_type(name: str) -> str:
    """Returns the type of a device, such as "cuda" of "cuda:0"; "" for an invalid name."""
    try:
        return torch.device(name).type
    except RuntimeError:
        return ""


def _is_value_range(values: Iterable) -> bool:
    values = list(values)
    return not values or (
        len(values) == 2 and all(map(_is_number, values)) and values[0] < values[1]
    )


def _is_scale_range(values: Iterable) -> bool:
    values = list(values)
    return len(values) == 2 and 0 < values[0] <= values[1] <= 100


def _is_size(values: Iterable) -> bool:
    values = list(values)
    return len(values) == 2 and (values == [0, 0] or all(0 < x <= LONGEST_SIDE for x in values))


# bounds that only slips of the keyboard exceed; they keep sizes and products in the range of the
# number types
MOST = 10**6
LONGEST_SIDE = 65536

TRUE_OR_FALSE = Rule("True or False", lambda x: isinstance(x, bool))
TEXT = Rule("a text", lambda x: True)
# characters; a longer one would fill the pictures, tables and messages that show it
MAX_NAME = 1000
# bytes of the path of a folder, and of each of its parts, that file systems and the names of the
# files in it allow
MAX_PATH, MAX_PART = 3500, 255


def is_path(text: str) -> bool:
    """Returns whether a text can be the path of a folder that files are written to."""
    if NO_TEXT.search(text):
        return False
    parts = [len(part.encode()) for part in text.split("/")]
    return len(text.encode()) <= MAX_PATH and max(parts) <= MAX_PART


def is_class_name(text: str) -> bool:
    """Returns whether a text can name a class. Ids of categories have the same limits, as texts."""
    return bool(text.strip()) and len(text) <= MAX_NAME and not NO_TEXT.search(text)


CLASS_NAME = Rule(
    f"a text of at most {MAX_NAME} characters without control characters, not only blanks",
    is_class_name,
)
NAME = Rule("a text that is not empty", lambda x: bool(x.strip()))
NUMBER = Rule("a number", lambda x: True)
FRACTION = from_to(0, 1)
POSITIVE_FRACTION = above(0, 1)
WEIGHT = at_least(0, MOST)
POSITIVE_WEIGHT = above(0, MOST)
COUNT = at_least(1, MOST)
OPTIONAL_COUNT = at_least(0, MOST)
# number of channels or units
SIZE = at_least(1, 65536)
OPTIONAL_SIZE = at_least(0, 65536)
ITERATIONS = at_least(0, 10**9)
DROPOUT = from_to_below(0, 1)
NOISE_SEED = Rule("an integer of 64 bits", lambda x: -(2**63) <= x < 2**63)
NORM = one_of("", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN")
ANCHORS = Rule("a list of numbers above 0, or such a list for every feature map", _are_anchors)
THRESHOLDS = Rule(
    "a list of at least one value, each above 0 and at most 1, in ascending order", _are_thresholds
)
LABELS = Rule(
    "a list of -1 (ignored), 0 (background) and 1 (object), in which 0 occurs, and whose last "
    "value is 1, but not the first",
    _are_labels,
)
BOX_WEIGHTS = each(POSITIVE_WEIGHT, 4)
BOX_WEIGHTS_PER_STAGE = Rule("a list of 4 values above 0 for every stage", _are_box_weights)
VALUE_RANGE = Rule(
    "[lowest, highest] pixel value, or [] for the full range of the pixel type", _is_value_range
)
SCALE_RANGE = Rule("[smallest, largest] factor, each above 0 and at most 100", _is_scale_range)
EVEN = Rule("even and above 0, at most 65536", lambda x: 2 <= x <= 65536 and x % 2 == 0)
ODD = Rule("odd and above 0, at most 99", lambda x: 1 <= x <= 99 and x % 2 == 1)
CATEGORY_IDS = Rule(
    "a list of integers or texts", lambda ids: all(type(x) in (int, str) for x in ids)
)
IMAGE_SIZE = Rule(f"(height, width), each from 1 to {LONGEST_SIDE}, or [0, 0] for off", _is_size)
SIDE = at_least(1, LONGEST_SIDE)
CONV_DIMS = Rule(
    "a list of numbers of channels, each -1 (that of the feature maps) or at least 1",
    lambda x: all(channels == -1 or 1 <= channels <= 65536 for channels in x),
)
WEIGHT_DECAY_BIAS = Rule(
    "None (SOLVER.WEIGHT_DECAY) or from 0 to 1000", lambda x: x is None or 0 <= x <= 1000
)
NORM_TYPE = Rule("above 0, or inf", lambda x: x > 0)
NO_MASKS = Rule("False, because flowdet detects boxes, not masks or keypoints", lambda x: not x)
EXPECTED_RESULTS = Rule("a list of [task, metric, value, tolerance]", _are_results)
# torch and detectron2 cannot open files in other folders: detectron2 takes their paths for URLs
FOLDER = Rule(
    f"the path of a folder, without ? and control characters, of at most {MAX_PATH} bytes, and "
    f"{MAX_PART} for each part",
    lambda path: bool(path.strip()) and "?" not in path and is_path(path),
)
OPTIONAL_FOLDER = Rule(
    f"the path of a folder without control characters, of at most {MAX_PATH} bytes, and {MAX_PART} "
    "for each part",
    lambda path: not path or is_path(path),
)
SEED = Rule("below 2147483648; negative for a random seed", lambda x: -(2**63) <= x < 2**31)
DEVICE = Rule("cuda, cuda:N or cpu", lambda name: device_type(name) in ("cpu", "cuda", "mps"))
