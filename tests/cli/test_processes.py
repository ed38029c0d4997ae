"""Several processes compute what one process computes with all images, and end together."""

import json
import multiprocessing
import signal
import sys
import time
from argparse import Namespace
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes
from detectron2.utils import comm
from PIL import Image
from torch import distributed
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from flowdet.cli.processes import end_with_parent, launch_processes, process_errors
from flowdet.cli.train import parse_args
from flowdet.engine import Trainer, evaluate, load_config, load_trained, resolve_config
from flowdet.engine.distributed import distributed_model, share_buffers
from tests.data.custom.example_datasets import write_coco
from tests.detection.tiny import CONFIGS, SIZES, record, tiny_model
from tests.flowcls.tiny import images
from tests.flowcls.tiny import tiny_model as tiny_classifier

# 6 images in 2 and in 3 processes
PROCESSES = (3, 2)
CASES = [
    (kind, schedule) for kind in ("detector", "classifier") for schedule in ("joint", "alternate")
]


@contextmanager
def double_precision():
    """Computes in float64. `float()`, which the models call for at least float32, gives it too, and
    detectron2's boxes keep it."""
    with (
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
        mock.patch.object(Boxes, "to", lambda boxes, device: boxes),
    ):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def detector(schedule):
    """Without noise, dropout and denoising queries, which would differ between the processes, and
    with frozen batch norms, whose statistics would. The last 2 of 6 images are empty."""
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
        ITERS_PER_EPOCH=1,
        NUM_BLOCKS=2,
    )
    objects = [[(0, (4, 4, 30, 40)), (2, (32, 8, 60, 60))], [(1, (9, 9, 50, 50))]]
    objects += [[(2, (20, 4, 44, 60))], [(0, (2, 8, 40, 30))], [], []]
    batch = [record(x, seed=i) for i, x in enumerate(objects)]
    for x in batch:
        boxes = x["instances"].gt_boxes
        boxes.tensor = boxes.tensor.double()
    return model.train(), batch


def classifier(schedule):
    """Without noise, random rollout lengths and the batch statistics of the probe."""
    keys = {"TRAINING_STATES": "rollout", "ROLLOUT_STEPS": [], "NOISE_SCALE": 0.0}
    keys |= {"TOPOLOGY": "sequential", "LEARN_AT_START": False}
    model = tiny_classifier(SCHEDULE=schedule, ITERS_PER_EPOCH=1, **keys)
    model.probe.norm = torch.nn.Identity()
    return model.train(), images(6)


MAKE = {"detector": detector, "classifier": classifier}


def trained(case, part=slice(None)):
    """Trains for 4 iterations, in `alternate` one epoch each; returns the parameters, and the names
    of those without gradient in every iteration."""
    kind, schedule = case
    model, inputs = MAKE[kind](schedule)
    # as the levels of a feature pyramid that no block gets
    model.unused = torch.nn.Linear(2, 2)
    parallel = distributed_model(model)
    # zeros instead of no gradient would change parameters that rest
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.1)
    resting = []
    for _ in range(4):
        loss = sum(parallel(inputs[part]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        resting.append({n for n, p in model.named_parameters() if p.grad is None})
    return {n: p.detach() for n, p in model.named_parameters()}, resting


def config(folder, output):
    """A detector that is trained for 2 iterations on a COCO dataset and evaluated on 5 images."""
    sizes = SIZES | {"MODEL.FLOW_DET.NUM_CLASSES": 0, "MODEL.FLOW_DET.NUM_BLOCKS": 2}
    sizes |= {"DATASETS.PATH": repr(f"{folder}/pets"), "OUTPUT_DIR": f"{folder}/{output}"}
    sizes |= {"SOLVER.IMS_PER_BATCH": 3, "SOLVER.MAX_ITER": 2, "SOLVER.WARMUP_ITERS": 0}
    sizes |= {"TEST.BATCH_SIZE": 1, "TEST.SAMPLE_IMAGES": 0, "DATALOADER.NUM_WORKERS": 0}
    return load_config(str(CONFIGS / "digits_flow.yaml"), [x for y in sizes.items() for x in y])


def buffers_after_sharing():
    """The buffers of a batch norm that had different images in each process."""
    norm = torch.nn.BatchNorm1d(3)
    norm(torch.randn(4, 3) + comm.get_rank())
    share_buffers(norm)
    return dict(norm.named_buffers())


def work(args):
    """Saves what each of 3 processes computes. Then the second one ends with an error."""
    rank, found = comm.get_rank(), {"buffers": buffers_after_sharing()}
    trainer = Trainer(resolve_config(config(args.folder, "several")))
    trainer.resume_or_load(resume=False)
    found["metrics"] = trainer.train()
    for count in PROCESSES:
        if count < comm.get_world_size():
            distributed.destroy_process_group()
            if rank < count:
                store = f"file://{args.folder}/store"
                distributed.init_process_group("gloo", store, rank=rank, world_size=count)
        if rank < count:
            size = 6 // count
            part = slice(size * rank, size * (rank + 1))
            with double_precision():
                found[count] = {case: trained(case, part) for case in CASES}
    torch.save(found, f"{args.folder}/{rank}.pth")
    if rank == 1:
        sys.exit("error: image 7 cannot be read")
    if rank == 0:
        distributed.barrier()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    objects = [((5 * i, 4, 5 * i + 20, 40), ("cat", "dog")[i % 2], 0) for i in range(6)]
    train = {f"image{i}": [x] for i, x in enumerate(objects)}
    test = {f"image{i}": [x] for i, x in enumerate(objects[:5])}
    root = write_coco(folder / "pets", train, test)
    generator = np.random.default_rng(0)
    for path in sorted(root.rglob("*.png")):
        Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def processes(folder):
    """What 3 processes found, and how they ended."""
    args = Namespace(num_gpus=3, num_machines=1, machine_rank=0, on_cpu=True, timeout=5.0)
    args.dist_url, args.folder = "auto", str(folder)
    with mock.patch.dict("os.environ"), pytest.raises(SystemExit) as end:
        launch_processes(work, args)
    return [torch.load(folder / f"{i}.pth", weights_only=False) for i in range(3)], end.value.code


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_training_equals_that_of_one_process_on_the_whole_batch(processes, case):
    with double_precision():
        expected, resting = trained(case)
    # the learned start is trained with the first block alone
    assert ["flow.start" in names for names in resting[:2]] == [False, case[1] == "alternate"]
    for count in PROCESSES:
        for found in processes[0][:count]:
            parameters, found_resting = found[count][case]
            assert found_resting == resting
            for name, parameter in expected.items():
                torch.testing.assert_close(parameters[name], parameter, rtol=0, atol=1e-6)


def test_evaluation_equals_that_of_one_process_row_by_row(processes, folder):
    cfg = resolve_config(config(folder, "one"), training=False)
    model = Trainer.build_model(cfg)
    load_trained(cfg, model, f"{folder}/several/model_final.pth", cfg.MODEL.CLASS_NAMES)
    metrics, several = evaluate(cfg, model)["bbox"], processes[0][0]["metrics"]["bbox"]
    assert several == pytest.approx(metrics, nan_ok=True)
    paths = [folder / name / "inference/coco_instances_results.json" for name in ("several", "one")]
    several, one = (json.loads(path.read_text()) for path in paths)
    assert {row["image_id"] for row in one} == {1, 2, 3, 4, 5}
    for a, b in zip(several, one, strict=True):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        assert [*a["bbox"], a["score"]] == pytest.approx([*b["bbox"], b["score"]], abs=1e-4)


def test_all_processes_evaluate_with_the_buffers_of_the_first(processes):
    first, *others = (found["buffers"] for found in processes[0])
    assert first["running_mean"].any() and int(first["num_batches_tracked"]) == 1
    for other in others:
        assert all(torch.equal(buffer, other[name]) for name, buffer in first.items())


def test_the_first_error_ends_all_processes_with_its_message(processes):
    assert processes[1] == "error: image 7 cannot be read"


def wait_for_the_end(pipe):
    end_with_parent()
    pipe.send("running")
    time.sleep(60)


def start_another(context, pipe):
    process = context.Process(target=wait_for_the_end, args=(pipe,))
    process.start()
    process.join()


def test_processes_end_when_the_program_that_started_them_is_killed():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    program = context.Process(target=start_another, args=(context, theirs))
    program.start()
    theirs.close()
    assert ours.poll(10) and ours.recv() == "running"
    program.kill()
    # the end of the last process that can write to it closes the pipe
    assert ours.poll(10)
    with pytest.raises(EOFError):
        ours.recv()


STOPPED = """[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting \
4000ms for recv operation to complete"""
KILLED = """[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:1: \
Connection reset by peer. This is typically caused by a remote worker hanging"""


@pytest.mark.parametrize("text", [STOPPED, KILLED, "Application timeout caused pair closure"])
def test_a_process_that_waits_in_vain_says_so_in_one_line(text):
    with pytest.raises(
        ConnectionError, match=r"did not answer for 2.5 minutes \(--timeout\): [^\n]*$"
    ):
        with process_errors(2.5):
            raise RuntimeError(text)


def test_other_errors_are_raised_as_they_are():
    with pytest.raises(RuntimeError, match="^mat1 and mat2$"), process_errors(2.5):
        raise RuntimeError("mat1 and mat2")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--num-gpus", "2"], "no GPU is visible: with MODEL.DEVICE cpu it is the number of proc"),
        (["--num-gpus", "-1"], "--num-gpus must not be negative"),
        (["--num-gpus", "0", "--num-machines", "2"], "it must be at least 1"),
        (["--num-machines", "2"], "--num-machines needs --dist-url, tcp://HOST:PORT"),
        (["--timeout", "0"], "must be a number of minutes above 0, got '0'"),
    ],
)
def test_numbers_of_processes_that_cannot_run_are_refused(words, message, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SystemExit) as end:
        parse_args(["--config-file", "digits_flow", *words])
    assert end.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, message",
    [
        (
            ProcessExitedException("", 1, 7, -9, "SIGKILL"),
            "process 1 ended with SIGKILL, often bec",
        ),
        (ProcessExitedException("", 1, 7, 3), "process 1 ended with exit code 3; all others"),
        (
            ProcessRaisedException("\n\nTrace\n a\nError: port\n", 2, 7),
            "2 could not start: Error: p",
        ),
    ],
)
def test_processes_that_cannot_report_how_they_end(error, message, monkeypatch):
    def launch(*_, **__):
        raise error

    monkeypatch.setattr("flowdet.cli.processes.launch", launch)
    args = Namespace(num_gpus=2, num_machines=1, machine_rank=0, on_cpu=True, timeout=5.0)
    args.dist_url = "auto"
    with mock.patch.dict("os.environ"), pytest.raises(SystemExit, match=message):
        launch_processes(work, args)


def test_processes_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    words = ["--config-file", "digits_flow", "--num-gpus", "2", "MODEL.DEVICE", "cpu"]
    assert parse_args(words).on_cpu


def test_ctrl_c_ends_all_processes(monkeypatch):
    """The signal may have been sent to the parent process alone."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("flowdet.cli.processes.launch", interrupted)
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    args = Namespace(
        num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto", timeout=1.0, on_cpu=False
    )
    with pytest.raises(KeyboardInterrupt):
        launch_processes(print, args)
    process.join(10)
    assert process.exitcode == -signal.SIGTERM
