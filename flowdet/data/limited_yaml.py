"""Limits for YAML files: a file of some lines could otherwise stand for billions of values."""

from __future__ import annotations

from pathlib import Path

import yaml

__all__ = ["MAX_BYTES", "LimitedYAML", "read_yaml"]

# flowdet's largest files have 10 kB; a data.yaml with 20,000 class names has 1 MB
MAX_BYTES = 4 * 2**20
MAX_DEPTH, MAX_VALUES = 50, 50_000


class LimitedYAML:
    """A mixin of yaml's loaders that refuses what no config or dataset needs.

    That is a file with too many or too deeply nested values. An alias counts as all values that it
    stands for. Every error in a value has the line of the value.
    """

    _depth = 0
    _values = 0

    def get_single_node(self) -> yaml.Node | None:
        if len(getattr(self, "buffer", "")) > MAX_BYTES:
            raise yaml.composer.ComposerError(
                None, None, f"the file has more than {MAX_BYTES:,} characters", self.get_mark()
            )
        return super().get_single_node()

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        mark, before = self.peek_event().start_mark, self._values
        self._depth += 1
        self._check(self._depth <= MAX_DEPTH, f"more than {MAX_DEPTH} levels", mark)
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if is_alias:
            self._check(hasattr(node, "size"), "a value that contains itself", mark)
        self._depth -= 1
        self._values += node.size if is_alias else 1
        self._check(self._values <= MAX_VALUES, f"more than {MAX_VALUES:,} values", mark)
        node.size = self._values - before
        return node

    def _check(self, condition: bool, what: str, mark: yaml.Mark) -> None:
        if not condition:
            raise yaml.composer.ComposerError(None, None, f"the file has {what}", mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        # of dates such as 2001-99-99, and of tags that do not fit their values
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"a value cannot be read ({type(error).__name__})", node.start_mark
            ) from error


class _SafeLoader(LimitedYAML, yaml.SafeLoader):
    pass


def read_yaml(path: str | Path) -> object:
    """Reads a YAML file without tags of Python.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is not YAML, or exceeds a limit. The message is one line.
    """
    content = Path(path).read_bytes()
    try:
        return yaml.load(content, _SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(f"{error.context or ''} {error.problem}".split())
        raise ValueError(f"{path}, line {mark.line + 1}: it is not valid YAML: {reason}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
