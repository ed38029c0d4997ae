"""Two processes with half of the batch each get the gradients of one process with all of it."""

from datetime import timedelta

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from flowdet.engine.trainer import share_buffers
from flowdet.flow import block_local_losses, blocks_to_train
from tests.detection.tiny import record, tiny_model
from tests.flow.toy import DIM, mlps
from tests.flowcls.tiny import images
from tests.flowcls.tiny import tiny_model as tiny_classifier

SCHEDULES = {"joint": (False,), "alternate": (False, True)}
CASES = [
    ("toy", schedule, unused) for schedule, choices in SCHEDULES.items() for unused in choices
] + [("detector", "joint", False), ("classifier", "joint", False)]


class Toy(torch.nn.Module):
    """A backbone and an ensemble; returns losses, as a meta-architecture does."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule
        self.ensemble = mlps(prediction="target")
        self.backbone = torch.nn.Linear(6, 5)

    def block_loss(self, block, features):
        state = self.ensemble.initial_state(features[0].new_zeros(len(features[0]), DIM))
        z1_hat = self.ensemble.predict(block, state, features[0]).z1_hat
        return {"a": z1_hat.square().mean(), "b": z1_hat.abs().mean()}

    def forward(self, images):
        return block_local_losses(
            self.block_loss,
            blocks_to_train(self.schedule, 3, epochs=1),
            [self.backbone(images).relu()],
            list(self.ensemble.parameters()),
        )


def toy(schedule):
    model = Toy(schedule)
    torch.manual_seed(1)
    return model, torch.randn(4, 6)


def detector(schedule):
    """Without noise, dropout and denoising queries, which would differ between the processes, and
    with frozen batch norms, whose statistics would; the halves have 3 and 1 objects."""
    model = tiny_model(
        file="voc_flow_r18_frozen.yaml",
        NECK_BLOCKS=0,
        NOISE_SCALE=0.0,
        STATE_NOISE=0.0,
        DROPOUT=0.0,
        DENOISING_QUERIES=0,
        PROPOSAL_QUERIES=0,
        FEATURE_CACHE_GIB=0.0,
        SCHEDULE=schedule,
        NUM_BLOCKS=2,
    ).train()
    objects = [[(0, (4, 4, 30, 40)), (2, (32, 8, 60, 60))], [(1, (9, 9, 50, 50))], [], []]
    objects[3] = [(2, (20, 4, 44, 60))]
    return model, [record(x, seed=i) for i, x in enumerate(objects)]


def classifier(schedule):
    """Without noise, random rollout lengths and the batch statistics of the probe."""
    keys = {"TRAINING_STATES": "rollout", "ROLLOUT_STEPS": [], "NOISE_SCALE": 0.0}
    model = tiny_classifier(TOPOLOGY="sequential", SCHEDULE=schedule, **keys).train()
    model.probe.norm = torch.nn.Identity()
    return model, images()


MAKE = {"toy": toy, "detector": detector, "classifier": classifier}


def gradients(model, inputs):
    model.zero_grad(set_to_none=True)
    sum(model(inputs).values()).backward()
    return {n.removeprefix("module."): p.grad for n, p in model.named_parameters()}


def work_as_second(_, folder):
    torch.set_num_threads(1)
    work(1, folder)


def work(rank, folder):
    """Saves the gradients of this process in every case to a file."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    found = {}
    for case in CASES:
        kind, schedule, find_unused = case
        model, inputs = MAKE[kind](schedule)
        model = DistributedDataParallel(model, find_unused_parameters=find_unused)
        half = inputs[2 * rank : 2 * rank + 2]
        # a reducer that still waits for the first step would fail in the second
        gradients(model, half)
        found[case] = gradients(model, half)
    found["buffers"] = buffers_after_sharing(rank)
    torch.save(found, f"{folder}/{rank}.pth")
    distributed.destroy_process_group()


def buffers_after_sharing(rank):
    """The buffers of a batch norm that had different images in each process."""
    norm = torch.nn.BatchNorm1d(3)
    norm(torch.randn(4, 3) + rank)
    share_buffers(norm)
    return dict(norm.named_buffers())


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """The gradients of both processes in every case."""
    folder = str(tmp_path_factory.mktemp("processes"))
    # this process is the first: starting another one takes seconds
    other = torch.multiprocessing.spawn(work_as_second, (folder,), nprocs=1, join=False)
    work(0, folder)
    while not other.join():
        pass
    return [torch.load(f"{folder}/{rank}.pth") for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_gradients_are_those_of_the_whole_batch(processes, case):
    kind, schedule, find_unused = case
    expected = gradients(*MAKE[kind](schedule))
    for found in processes:
        for name, gradient in expected.items():
            if gradient is not None:
                torch.testing.assert_close(found[case][name], gradient, rtol=1e-4, atol=1e-6)


def unused(case):
    kind, schedule, _ = case
    return [n for n, g in gradients(*MAKE[kind](schedule)).items() if g is None]


def test_blocks_that_do_not_learn(processes):
    """DistributedDataParallel gives them zeros; None, as one process does, only with
    `find_unused_parameters`."""
    zeros, none = ("toy", "alternate", False), ("toy", "alternate", True)
    assert unused(zeros) == unused(none) and len(unused(zeros)) > 10
    for found in processes:
        assert all(found[none][name] is None for name in unused(none))
        assert all(not found[zeros][name].any() for name in unused(zeros))


def test_all_processes_evaluate_with_the_buffers_of_the_first(processes):
    first, second = (found["buffers"] for found in processes)
    assert first.keys() == second.keys() and first["running_mean"].any()
    for name, buffer in first.items():
        assert torch.equal(buffer, second[name]), name
    assert int(first["num_batches_tracked"]) == 1
