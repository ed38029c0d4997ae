"""Checks that the state of a training in a checkpoint has the form of the trainer's own state."""

from __future__ import annotations

# more than any training has
MAX_ITERATION = 2**31
_HOOKS = "trainer.hooks."
_GROUPS = ".optimizer.param_groups["
# switches of an optimizer that depend on the config, which `--override` changes, and on the device
_FREE_SWITCHES = (".nesterov", ".fused")


def check_state_form(state: object, own: dict) -> None:
    """Compares the types of a state with those of the trainer's.

    The file may be of somebody else: another type would end the training later, without a message
    that names the file.

    Args:
        state: the state in a checkpoint.
        own: the state of the trainer before it is loaded.

    Raises:
        TypeError: a value has another type, or the iteration is not possible. `FlowDetCheckpointer`
            adds the path.
    """
    problem = _difference(state, own, "trainer")
    if problem:
        raise TypeError(problem)
    iteration = state.get("iteration")
    if type(iteration) is not int or not 0 <= iteration < MAX_ITERATION:
        raise TypeError(f"trainer.iteration is {iteration}")


def _difference(value: object, own: object, name: str) -> str:
    """Names the first value of another type, and its type; "" if there is none."""
    if isinstance(own, dict) and isinstance(value, dict):
        # torch makes attributes of a scheduler of them, in place of its methods
        unknown = [key for key in value if key not in own] if name.startswith(_HOOKS) else []
        if unknown:
            return f"{name} has the unknown entry {unknown[0]!r}"
        pairs = [(value[key], x, f"{name}.{key}") for key, x in own.items() if key in value]
    elif isinstance(own, (list, tuple)) and isinstance(value, (list, tuple)):
        pairs = [(x, y, f"{name}[{i}]") for i, (x, y) in enumerate(zip(value, own, strict=False))]
    else:
        return _leaf_difference(value, own, name)
    return next(filter(None, (_difference(*pair) for pair in pairs)), "")


def _leaf_difference(value: object, own: object, name: str) -> str:
    if not _is_like(value, own):
        return f"{name} is a {type(value).__name__}"
    # such as `maximize`, or `foreach`, which torch does not accept together with `fused`
    is_switch = _GROUPS in name and (own is None or isinstance(own, bool))
    if is_switch and value != own and not name.endswith(_FREE_SWITCHES):
        return f"{name} is {value!r}, not {own!r}"
    return ""


def _is_like(value: object, own: object) -> bool:
    # an option that is not set, or that has become one
    if own is None or value is None:
        return True
    # a float may have been written as an integer
    return type(value) is type(own) or (isinstance(own, float) and type(value) is int)
