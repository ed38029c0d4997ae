"""States of a training in a checkpoint of somebody else."""

import copy

import pytest

from flowdet.engine.state_form import check_state_form

OWN = {
    "iteration": 0,
    "hooks": {"LRScheduler": {"base_lrs": [0.1], "last_epoch": 0}},
    "_trainer": {
        "optimizer": {
            "state": {},
            "param_groups": [
                {"lr": 0.1, "betas": (0.9, 0.99), "fused": None, "foreach": None, "maximize": False}
            ],
        }
    },
}


def changed(path, value):
    state = copy.deepcopy(OWN) | {"iteration": 7}
    node = state
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return state


GROUP = ("_trainer", "optimizer", "param_groups", 0)
SCHEDULER = ("hooks", "LRScheduler")


@pytest.mark.parametrize(
    "path, value",
    [
        (("iteration",), 8),
        ((*GROUP, "lr"), 1),
        ((*GROUP, "betas"), [0.5, 0.5]),
        ((*GROUP, "fused"), True),
        ((*GROUP, "new"), "x"),
        (("_trainer", "optimizer", "state"), {0: {"step": 3}}),
    ],
)
def test_states_of_trainings_are_accepted(path, value):
    check_state_form(changed(path, value), OWN)


@pytest.mark.parametrize(
    "path, value, named",
    [
        *((("iteration",), x, "iteration is") for x in ("5", None, True, 2.5, -7, 10**30, [1])),
        ((*GROUP, "lr"), "x", r"param_groups\[0\].lr is a str"),
        ((*GROUP, "lr"), [1], r"param_groups\[0\].lr is a list"),
        ((*GROUP, "betas"), 5, "betas is a int"),
        ((*GROUP, "maximize"), True, r"param_groups\[0\].maximize is True, not False"),
        ((*GROUP, "foreach"), True, r"param_groups\[0\].foreach is True, not None"),
        (("hooks",), [1], "hooks is a list"),
        ((*SCHEDULER, "last_epoch"), "x", "last_epoch is a str"),
        ((*SCHEDULER, "step"), 5, "unknown entry 'step'"),
    ],
)
def test_states_of_another_form_are_one_line(path, value, named):
    with pytest.raises(TypeError, match=named) as error:
        check_state_form(changed(path, value), OWN)
    assert "\n" not in str(error.value)


def test_a_state_without_iteration_or_of_another_type_is_one_line():
    for state in ([1], {}, 5):
        with pytest.raises(TypeError, match="trainer"):
            check_state_form(state, OWN)
