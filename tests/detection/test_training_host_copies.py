"""A training step copies nothing to the host but the costs of its matchings and one log.

This holds for flowdet's own code: with `PROPOSAL_QUERIES`, detectron2's RPN copies values for every
image.
"""

import pytest
from detectron2.utils.events import EventStorage

from tests.detection.host_copies import HostCopies
from tests.detection.tiny import batch, tiny_model


@pytest.mark.parametrize(
    "file, keys, matchings",
    [
        ("digits_flow.yaml", {"MATCHING": "shared"}, 1),
        ("digits_flow.yaml", {"MATCHING": "per_block"}, 3),
        ("digits_flow.yaml", {"MATCHING": "shared", "LEARN_AT_START": True}, 1),
        ("digits_flow.yaml", {"MATCHING": "shared", "TRAINING_STATES": "interpolated"}, 1),
        ("digits_backprop.yaml", {}, 3),
    ],
)
def test_losses_copy_only_the_costs_of_the_matchings(file, keys, matchings):
    keys = {"DENOISING_QUERIES": 4, "IGNORE_IOU": 0.5, **keys}
    model = tiny_model(file=file, **keys).train()
    tokens, targets = model.encode(batch()), model.prepare_targets(batch())
    with EventStorage(), HostCopies() as copies:
        model.losses(tokens, targets)
    # the last is that of the statistics of all blocks, for the log
    assert copies.names == ["cpu", "numpy"] * matchings + ["tolist"]
