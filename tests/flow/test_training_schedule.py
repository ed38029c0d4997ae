import pytest
import torch

from flowdet.flow import LocalTraining, blocks_to_train


def test_the_scale_is_part_of_the_state():
    local, resumed = (LocalTraining(2, "joint", 0) for _ in range(2))
    local.half_scale.update([torch.tensor([float("inf")])])
    local.half_scale.update([torch.ones(1)])
    resumed.load_state_dict(local.state_dict())
    assert (resumed.half_scale.value, resumed.half_scale.good) == (2.0**11, 1)


def test_schedules():
    assert blocks_to_train("joint", 3, epochs=5) == [0, 1, 2]
    assert [blocks_to_train("alternate", 3, epochs=i) for i in range(4)] == [[0], [1], [2], [0]]
    with pytest.raises(ValueError, match="unknown SCHEDULE 'random'"):
        blocks_to_train("random", 3, 0)
