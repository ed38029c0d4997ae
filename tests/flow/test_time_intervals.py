import pytest

from flowdet.flow.time_intervals import block_at, step_times


def test_block_at_every_border():
    for count in range(1, 200):
        assert [block_at(i / count, count) for i in range(count)] == list(range(count))
    assert block_at(0.999999999, 4) == 3


@pytest.mark.parametrize("regular", [True, False])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 7, 12])
def test_step_times_rise_from_0_to_1(num_steps, regular):
    times = step_times(num_steps, 4, regular)
    assert len(times) == num_steps + 1
    assert (times[0], times[-1]) == (0, 1)
    assert all(a < b for a, b in zip(times[:-1], times[1:], strict=True))


def test_further_steps_divide_every_interval_or_the_last_one():
    steps_of = [
        [[block_at(t, 3) for t in step_times(6, 3, regular)[:-1]].count(k) for k in range(3)]
        for regular in (True, False)
    ]
    assert steps_of == [[2, 2, 2], [1, 1, 4]]
