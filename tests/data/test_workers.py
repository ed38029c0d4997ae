"""Workers of the data loader that end, run out of memory or raise an error."""

import errno
import gc
import os
import signal
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.multiprocessing.reductions import rebuild_storage_fd
from torch.utils.data import DataLoader, Dataset, get_worker_info

from flowdet.data import workers
from flowdet.data.workers import SharedSamples, worker_errors
from flowdet.stop_signals import stop_signals

FULL = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"


@pytest.fixture(scope="module", autouse=True)
def short_shutdown():
    """torch waits 5 seconds for the other processes of a loader whose worker was killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
        yield
        gc.collect()


class Samples(Dataset):
    """Samples with boxes; `act` is called for the third."""

    def __init__(self, act=lambda: None):
        self.act = act

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 2:
            self.act()
        instances = Instances((4, 4), gt_boxes=Boxes(torch.full((index % 2, 4), 1.0 * index)))
        image = torch.full((3, 4, 4), index, dtype=torch.uint8)
        return {"image": image, "instances": instances, "id": index, "list": [image[:1]]}


def loader(act=lambda: None, workers=1):
    return DataLoader(
        SharedSamples(Samples(act)), batch_size=2, num_workers=workers, collate_fn=list
    )


def read_all(act, workers=1):
    with worker_errors():
        return list(loader(act, workers))


def kill_with(number):
    return lambda: os.kill(os.getpid(), number)


def raise_error(error):
    def act(*args):
        raise error

    return act


def message_of(act, kind=OSError):
    with pytest.raises(kind) as info:
        read_all(act)
    text = str(info.value)
    assert "\n" not in text
    return text


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the system tells no sender")
def test_a_worker_ends_at_sigterm_only_if_its_training_sent_it():
    assert len(read_all(kill_with(signal.SIGTERM))) == 3
    batches = iter(loader())
    next(batches)
    (worker,) = batches._workers
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def test_sigterm_to_all_processes_is_no_error_of_a_worker():
    text = "DataLoader worker (pid 7) is killed by signal: Terminated. "
    with stop_signals(), pytest.raises(KeyboardInterrupt), worker_errors():
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        raise RuntimeError(text)


def test_bus_error_names_the_number_of_workers_and_shm_size():
    text = message_of(kill_with(signal.SIGBUS))
    assert "shared memory" in text and "DATALOADER.NUM_WORKERS" in text and "--shm-size" in text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_worker_names_the_number_of_workers_and_memory(number):
    text = message_of(kill_with(number))
    assert "ran out of memory" in text and "--shm-size" in text
    assert "DATALOADER.NUM_WORKERS" in text and "SOLVER.IMS_PER_BATCH" in text


def test_worker_that_exits():
    assert "DATALOADER.NUM_WORKERS" in message_of(lambda: os._exit(1))


def test_full_shared_memory_is_an_error_and_no_endless_wait(monkeypatch):
    # the workers inherit the method
    monkeypatch.setattr(
        torch.Tensor, "share_memory_", lambda self: raise_error(RuntimeError(FULL))()
    )
    text = message_of(lambda: None)
    assert "shared memory" in text and "DATALOADER.NUM_WORKERS" in text and "--shm-size" in text


@pytest.mark.parametrize(
    "text", ["unable to open shared memory object </torch_7> in read-write mode: {}", "{}"]
)
def test_too_many_open_files(text):
    error = RuntimeError(text.format("Too many open files (24)"))
    assert "ulimit -n" in message_of(raise_error(error))


def test_processes_that_cannot_start(monkeypatch):
    monkeypatch.setattr(os, "fork", raise_error(OSError(errno.ENOMEM, "Cannot allocate memory")))
    text = message_of(lambda: None)
    assert "cannot start" in text and "DATALOADER.NUM_WORKERS" in text


class Unsendable:
    def __reduce__(self):
        raise OSError(errno.EMFILE, "Too many open files")


def test_a_sample_that_cannot_be_sent_is_an_error_and_no_endless_wait(monkeypatch, capfd):
    monkeypatch.setattr(Samples, "__getitem__", lambda *_: {"id": Unsendable()})
    assert "ulimit -n" in message_of(lambda: None)
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_that_cannot_open_a_connection_ends(monkeypatch, capfd):
    # a thread passes the file descriptors of tensors on by connections
    error = OSError(errno.EMFILE, "Too many open files")
    monkeypatch.setattr("multiprocessing.connection.Listener.accept", raise_error(error))
    assert "ulimit -n" in message_of(lambda: None)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), EOFError()])
def test_a_tensor_of_a_worker_that_has_ended(error):
    lost = SimpleNamespace(detach=raise_error(error))
    with pytest.raises(OSError, match="usually it ran out of memory"), worker_errors():
        rebuild_storage_fd(torch.UntypedStorage, lost, 4)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.ENOSYS])
def test_processes_without_shared_memory(monkeypatch, number, capfd):
    monkeypatch.setattr(
        "_multiprocessing.SemLock", raise_error(OSError(number, os.strerror(number)))
    )
    text = message_of(lambda: None)
    assert "(/dev/shm) cannot be used" in text and "DATALOADER.NUM_WORKERS" in text
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", [OSError, ValueError])
def test_error_of_a_worker_is_its_own_message(kind):
    error = kind("cannot read image a.jpg (image id 3): broken")
    assert message_of(raise_error(error), kind) == "cannot read image a.jpg (image id 3): broken"


def test_other_errors_are_unchanged():
    with pytest.raises(RuntimeError, match="Caught RuntimeError in DataLoader worker"):
        read_all(raise_error(RuntimeError("a bug")))
    error = OSError(errno.ENOSPC, "No space left on device", "model.pth")
    with pytest.raises(OSError) as info, worker_errors():
        raise error
    assert info.value is error
    with pytest.raises(OSError, match="broken") as info:
        read_all(raise_error(OSError("broken")), workers=0)
    assert str(info.value) == "broken"


def test_samples_of_workers_equal_those_of_the_main_process():
    expected, actual = (
        [x for batch in read_all(lambda: None, workers) for x in batch] for workers in (0, 2)
    )
    assert [x["id"] for x in actual] == list(range(6))
    for a, b in zip(expected, actual, strict=True):
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["list"][0], b["list"][0])
        boxes = [x["instances"].gt_boxes.tensor for x in (a, b)]
        assert torch.equal(*boxes) and len(boxes[0]) == a["id"] % 2
        assert b["image"].is_shared() and not a["image"].is_shared()
    assert get_worker_info() is None


@pytest.mark.parametrize(
    ("error", "is_killed", "is_shown"),
    [
        (ConnectionResetError("lost"), True, False),
        (EOFError("lost"), True, False),
        (ConnectionResetError("lost"), False, True),
        (ValueError("another"), True, True),
    ],
)
def test_a_worker_shows_no_lost_connection_to_a_killed_training(
    monkeypatch, capsys, error, is_killed, is_shown
):
    # the sentinel of a process can be read when it ends
    sentinel, end = os.pipe()
    parent = SimpleNamespace(sentinel=sentinel)
    monkeypatch.setattr("multiprocessing.parent_process", lambda: parent)
    monkeypatch.setattr(workers, "_SECONDS_TO_END", 0.05)
    monkeypatch.setattr("sys.excepthook", sys.__excepthook__)
    workers.handle_sending_errors.__wrapped__()
    if is_killed:
        os.close(end)
    try:
        sys.excepthook(type(error), error, None)
    finally:
        os.close(sentinel)
        if not is_killed:
            os.close(end)
    assert bool(capsys.readouterr().err) == is_shown
