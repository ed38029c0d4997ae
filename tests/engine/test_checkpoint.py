"""Loading checkpoints: of flowdet, of torchvision, of other classes, and files that do not fit."""

import logging
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18, resnet50

from flowdet.config.errors import ConfigError
from flowdet.engine import FlowDetCheckpointer, WholeModelCheckpointer, load_trained
from flowdet.engine.hooks import average_of
from flowdet.engine.whole_model import NotTrainedError, NoWeightsError, checkpoint_beside
from tests.detection.tiny import batch, tiny_cfg, tiny_model
from tests.flowcls.tiny import tiny_model as tiny_classifier


def frozen_resnet(**keys):
    return tiny_model(file="voc_flow_r18_frozen.yaml", FEATURE_CACHE_GIB=0.0, **keys)


def load(model, path, **options):
    return FlowDetCheckpointer(model, **options).load(str(path))


def save(tmp_path, state):
    torch.save(state, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def save_model(tmp_path, model, **options):
    FlowDetCheckpointer(model, str(tmp_path), **options).save("weights")
    return tmp_path / "weights.pth"


def copy_of_state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def teacher():
    """A torchvision ResNet-18 whose batch norms do not have their initial statistics."""
    torch.manual_seed(5)
    model = resnet18(weights=None)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def deep_teacher():
    torch.manual_seed(0)
    return resnet50(weights=None).eval()


def up_to_layer3(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    return model.layer3(model.layer2(model.layer1(x)))


def assert_same_features(model, teacher):
    """Both compute the same function; they have other kernels for batch norm."""
    torch.manual_seed(1)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = up_to_layer3(teacher, x)
        difference = (model.backbone(x)["res4"] - expected).abs().max()
    assert difference < 1e-4 * expected.abs().max()


def test_torchvision_resnet18_fills_the_whole_backbone(tmp_path, teacher):
    model = frozen_resnet().eval()
    for tensor in model.backbone.state_dict().values():
        tensor.fill_(float("nan"))
    load(model, save(tmp_path, teacher.state_dict()))
    for name, tensor in model.backbone.state_dict().items():
        assert torch.isfinite(tensor).all(), name
    assert_same_features(model, teacher)


def test_torchvision_resnet50_fits_too(tmp_path, deep_teacher):
    model = tiny_model(file="voc_flow_r50.yaml").eval()
    load(model, save(tmp_path, deep_teacher.state_dict()))
    assert_same_features(model, deep_teacher)


def test_backbone_of_another_depth_is_refused(tmp_path, deep_teacher):
    path = save(tmp_path, deep_teacher.state_dict())
    with pytest.raises(
        ValueError, match="ResNet-50, but .* a ResNet-18: set MODEL.RESNETS.DEPTH 50"
    ):
        load(frozen_resnet(), path)


def test_saved_model_is_loaded_unchanged(tmp_path):
    model = tiny_model(seed=1)
    model(batch())
    other = tiny_model(seed=2)
    load(other, save_model(tmp_path, model))
    expected = model.state_dict()
    assert expected["local.iterations"] == 1
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("part", ["model", "ema"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, part, value):
    """A detector with them would detect nothing, without a word."""
    model = tiny_model()
    average = average_of(model, 0.5)
    content = {"model": copy_of_state(model), "ema": copy_of_state(average)}
    name = next(x for x in content[part] if "blocks" in x)
    content[part][name].view(-1)[0] = value
    path = save(tmp_path, content)
    with pytest.raises(ValueError, match=f"{path} has weights that are NaN or infinite .{name}"):
        load(tiny_model(), path, ema=average)


def test_backbone_weights_alone_leave_the_rest_unchanged(tmp_path):
    donor = tiny_model(seed=1)
    state = {f"backbone.{k}": v for k, v in donor.backbone.state_dict().items()}
    model, untouched = tiny_model(seed=2), tiny_model(seed=2)
    load(model, save(tmp_path, {"model": state}))
    for name, tensor in model.state_dict().items():
        source = donor if name.startswith("backbone.") else untouched
        assert torch.equal(tensor, source.state_dict()[name]), name


def test_checkpoint_without_position_frequencies_has_those_of_the_config(tmp_path, caplog):
    state = {k: v for k, v in tiny_model(seed=1).state_dict().items() if "frequencies" not in k}
    model = tiny_model(seed=2, POSITION_MAX_FREQUENCY=3.0)
    expected = model.neck.encoding.frequencies.clone()
    with caplog.at_level(logging.WARNING):
        load(model, save(tmp_path, {"model": state}))
    assert torch.equal(model.neck.encoding.frequencies, expected)
    assert caplog.text == ""


def test_checkpoint_keeps_its_position_frequencies(tmp_path):
    trained = tiny_model(POSITION_MAX_FREQUENCY=2.0)
    model = tiny_model(POSITION_MAX_FREQUENCY=3.0)
    load(model, save_model(tmp_path, trained))
    assert torch.equal(model.neck.encoding.frequencies, trained.neck.encoding.frequencies)
    assert model.flow.query_position.encoding is model.neck.encoding


def test_missing_file(tmp_path):
    checkpointer = FlowDetCheckpointer(tiny_model())
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="no checkpoint .*nowhere.pth.*MODEL.WEIGHTS"):
            checkpointer.load(str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize(
    "name", ["a\nb/x.pth", "s3://x/y.pth", "file:///x.pth", "://", "a?b/x.pth"]
)
def test_path_or_url_that_is_no_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if "://" not in name:
        Path(name).parent.mkdir()
        save_model(Path(name).parent, tiny_model())
    with pytest.raises(FileNotFoundError, match="MODEL.WEIGHTS"):
        FlowDetCheckpointer(tiny_model()).load(name)


def test_url_of_a_server_that_speaks_no_http():
    with pytest.raises(FileNotFoundError, match="http://a b/x.pth could not be downloaded"):
        FlowDetCheckpointer(tiny_model()).load("http://a b/x.pth")


@pytest.mark.parametrize("url", ["https://[::1/x.pth", "http://h:abc/x.pth", "http://h:99999/x"])
def test_url_of_another_form(url):
    with pytest.raises(ConfigError, match=r"is not a valid URL \(.*MODEL.WEIGHTS"):
        FlowDetCheckpointer(tiny_model()).load(url)


def test_a_failed_download_prints_nothing(monkeypatch, capfd):
    def refuse(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlretrieve", refuse)
    with pytest.raises(FileNotFoundError, match="could not be downloaded .no network"):
        FlowDetCheckpointer(tiny_model()).load("http://127.0.0.1/a\x1b[31m.pth")
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
@pytest.mark.parametrize("content", [b"", b"hello, this is no checkpoint", b"\x80\x02K"])
def test_file_that_is_not_a_checkpoint(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    checkpointer = FlowDetCheckpointer(tiny_model())
    # the second time the same error, not one about the first
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{name} is not a readable checkpoint"):
            checkpointer.load(str(tmp_path / name))


@pytest.mark.parametrize("content", [[1, 2], {"model": [1, 2]}, torch.zeros(3)])
def test_file_that_holds_no_state_dict(tmp_path, content):
    with pytest.raises(ValueError, match="weights.pth"):
        load(tiny_model(), save(tmp_path, content))


@pytest.mark.parametrize("make", [tiny_model, tiny_classifier], ids=["detector", "classifier"])
def test_weights_of_another_model_are_refused(tmp_path, make):
    path = save(tmp_path, {"model": {"encoder.weight": torch.zeros(3)}})
    with pytest.raises(ValueError, match="none of the model's weights.*encoder.weight"):
        load(make(), path)


@pytest.mark.parametrize(
    "make, tensor",
    [(tiny_model, "heads.classes.weight"), (tiny_classifier, "probe.classifier.weight")],
    ids=["detector", "classifier"],
)
def test_another_number_of_classes_is_refused(tmp_path, make, tensor):
    path = save_model(tmp_path, make(NUM_CLASSES=5))
    with pytest.raises(ValueError, match=f"{tensor}.*MODEL.REINIT_CLASSES True"):
        load(make(NUM_CLASSES=6), path)


def test_reinit_classes_keeps_the_initial_values_of_exactly_those_tensors(tmp_path, caplog):
    path = save_model(tmp_path, tiny_classifier(NUM_CLASSES=10))
    model = tiny_classifier(NUM_CLASSES=100)
    initial = copy_of_state(model)
    with caplog.at_level(logging.WARNING):
        load(model, path, reinit_classes=True)
    new = {
        *("embedding.classes.weight", "embedding.projection.weight", "embedding.projection.bias"),
        *("probe.classifier.weight", "probe.classifier.bias"),
    }
    messages = [record.getMessage() for record in caplog.records]
    (message,) = [text for text in messages if "another number of classes" in text]
    assert all(name in message for name in new)
    loaded = torch.load(path, weights_only=True)["model"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, initial[name] if name in new else loaded[name]), name


def test_reinit_classes_excuses_no_other_shape(tmp_path):
    path = save_model(tmp_path, tiny_classifier(NUM_CLASSES=10, HIDDEN_DIM=32))
    with pytest.raises(ValueError, match="does not fit the model"):
        load(tiny_classifier(NUM_CLASSES=100), path, reinit_classes=True)


def test_other_classes_of_the_same_number(tmp_path, caplog):
    trained, names = tiny_model(NUM_CLASSES=3), ["cat", "dog", "emu"]
    path = save_model(tmp_path, trained, class_names=names)
    model, other = tiny_model(seed=1, NUM_CLASSES=3), ["cat", "dog", "owl"]
    with pytest.raises(ValueError, match=r"emu \(model: owl\). set MODEL.REINIT_CLASSES True"):
        load(model, path, class_names=other)

    initial = copy_of_state(model)
    load(model, path, class_names=other, reinit_classes=True)
    assert "heads.classes.weight" in caplog.text and "reinitialized" in caplog.text
    expected, kept = trained.state_dict(), 0
    for name, value in model.state_dict().items():
        is_class = name.startswith(model.class_tensors)
        assert torch.equal(value, initial[name] if is_class else expected[name]), name
        kept += is_class
    assert kept > 1
    # a model without names accepts any, and the same names always fit
    for options in ({}, {"class_names": names}):
        again = tiny_model(seed=1, NUM_CLASSES=3)
        load(again, path, **options)
        assert torch.equal(again.heads.classes.weight, trained.heads.classes.weight)


def test_whole_model_checkpointer_refuses_a_part(tmp_path):
    model = tiny_model(seed=1)
    state = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    checkpointer = WholeModelCheckpointer(tiny_model(seed=2))
    with pytest.raises(ValueError, match=r"lacks \d+ of the model's weights \(in flow, heads"):
        checkpointer.load(str(save(tmp_path, {"model": state})))
    with pytest.raises(ValueError, match="no weights are given: set MODEL.WEIGHTS"):
        checkpointer.load("")


def test_the_checkpoint_in_the_folder_of_the_config_is_named(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "config.yaml").touch()
    config = str(folder / "config.yaml")

    def message(name):
        with pytest.raises(ValueError) as caught, checkpoint_beside(name, "--weights"):
            raise NoWeightsError("no weights")
        return str(caught.value)

    assert message(config) == message("digits_flow") == "no weights"
    (folder / "backbone.pth").write_bytes(b"PK")
    with pytest.raises(ValueError, match="^lacks$"), checkpoint_beside(config, "--weights"):
        raise NotTrainedError("lacks", f"{folder}/backbone.pth")
    torch.save({"model": {}}, folder / "model_final.pth")
    advice = f"give --weights '{folder}/model_final.pth', from the folder of the config"
    assert message(config) == f"no weights; {advice}"
    # not the one that is used
    with pytest.raises(ValueError, match="^lacks$"), checkpoint_beside(config, "--weights"):
        raise NotTrainedError("lacks", f"{folder}/./model_final.pth")
    (folder / "model_final.pth").write_bytes(b"PK")
    assert message(config) == "no weights"
    with pytest.raises(ValueError, match="^other$"), checkpoint_beside(config, "--weights"):
        raise ValueError("other")


@pytest.mark.parametrize("keys", [{"NUM_BLOCKS": 2}, {"SELF_CONDITIONING": False}])
def test_a_model_that_uses_only_a_part_of_a_checkpoint_is_refused(tmp_path, keys):
    """Its detections would be those of no training."""
    trained, names = tiny_model(NUM_CLASSES=3), ["cat", "dog", "owl"]
    path = str(save_model(tmp_path, trained, class_names=names))
    with pytest.raises(ValueError, match=r"weights.pth has \d+ weights .*, such as flow.blocks.\d"):
        WholeModelCheckpointer(tiny_model(NUM_CLASSES=3, **keys)).load(path)
    # a training may start from a part
    load(tiny_model(NUM_CLASSES=3, **keys), path)
    WholeModelCheckpointer(tiny_model(NUM_CLASSES=3)).load(path)
    # the file of another program
    other = str(save(tmp_path, {"model": trained.state_dict() | {"more": torch.zeros(1)}}))
    WholeModelCheckpointer(tiny_model(NUM_CLASSES=3)).load(other)


@pytest.fixture
def ema_cfg():
    cfg = tiny_cfg()
    cfg.SOLVER.EMA_DECAY = 0.5
    return cfg


def test_moving_average_is_loaded_if_the_checkpoint_has_one(tmp_path, ema_cfg):
    trained = tiny_model(seed=1)
    average = average_of(trained, 0.5)
    average.update_parameters(tiny_model(seed=2))
    path = save_model(tmp_path, trained, ema=average)
    model = tiny_model(seed=3)
    loaded = load_trained(ema_cfg, model, str(path))
    weight = trained.heads.classes.weight
    assert torch.equal(model.heads.classes.weight, weight)
    expected = average.module.heads.classes.weight
    assert torch.equal(loaded.module.heads.classes.weight, expected)
    assert not torch.equal(expected, weight)


def test_moving_average_without_position_frequencies_has_those_of_the_config(tmp_path, ema_cfg):
    trained = tiny_model(seed=1)
    path = save_model(tmp_path, trained, ema=average_of(trained, 0.5))
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["ema"]["n_averaged"] += 1
    for key in ("model", "ema"):
        checkpoint[key] = {k: v for k, v in checkpoint[key].items() if "frequencies" not in k}
    torch.save(checkpoint, path)
    model = tiny_model(seed=2)
    average = load_trained(ema_cfg, model, str(path))
    expected = trained.state_dict()
    for loaded in (model, average.module):
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, expected[name]), name


def test_without_a_moving_average_there_is_none(tmp_path, ema_cfg):
    path = str(save_model(tmp_path, tiny_model()))
    assert load_trained(ema_cfg, tiny_model(), path) is None
    ema_cfg.SOLVER.EMA_DECAY = 0.0
    assert load_trained(ema_cfg, tiny_model(), path) is None


@pytest.mark.parametrize("trained_queries, queries", [(0, 4), (4, 0), (4, 4)])
def test_inference_needs_no_proposal_network(tmp_path, ema_cfg, caplog, trained_queries, queries):
    trained = tiny_model(seed=1, PROPOSAL_QUERIES=trained_queries)
    average = average_of(trained, 0.5)
    average.update_parameters(trained)
    path = save_model(tmp_path, trained, ema=average)
    model = tiny_model(seed=2, PROPOSAL_QUERIES=queries)
    with caplog.at_level(logging.WARNING):
        loaded = load_trained(ema_cfg, model, str(path))
    assert "proposal_network" not in caplog.text
    for part in (model, loaded.module):
        for name, tensor in part.state_dict().items():
            if trained_queries or not name.startswith("proposal_network."):
                assert torch.equal(tensor, trained.state_dict()[name]), name


def test_a_proposal_network_of_another_shape_is_left_out(tmp_path, ema_cfg):
    trained = tiny_model(seed=1, PROPOSAL_QUERIES=4)
    path = save_model(tmp_path, trained, ema=average_of(trained, 0.5))
    state = torch.load(path, weights_only=True)
    state["ema"]["n_averaged"] += 1
    for key, prefix in (("model", ""), ("ema", "module.")):
        name = f"{prefix}proposal_network.rpn.rpn_head.objectness_logits.weight"
        state[key][name] = state[key][name][:2]
    torch.save(state, path)
    model = tiny_model(seed=2, PROPOSAL_QUERIES=4)
    average = load_trained(ema_cfg, model, str(path))
    weight = trained.heads.classes.weight
    assert torch.equal(model.heads.classes.weight, weight)
    assert torch.equal(average.module.heads.classes.weight, weight)


def test_weights_that_inference_uses_are_still_reported(tmp_path, ema_cfg, caplog):
    trained = tiny_model(seed=1, PROPOSAL_QUERIES=4)
    path = save_model(tmp_path, trained, ema=average_of(trained, 0.5))
    state = torch.load(path, weights_only=True)
    state["model"]["other.weight"] = torch.zeros(1)
    state["ema"]["n_averaged"] += 1
    torch.save(state, path)
    with caplog.at_level(logging.WARNING):
        load_trained(ema_cfg, tiny_model(), str(path))
    assert "other.weight" in caplog.text
    del state["ema"]["module.heads.classes.weight"]
    torch.save(state, path)
    with pytest.raises(ValueError, match="lacks 1 of .* averaged weights.*heads.classes.weight"):
        load_trained(ema_cfg, tiny_model(), str(path))
    del state["model"]["heads.classes.weight"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"lacks 1 of the model's weights \(in heads\)"):
        load_trained(ema_cfg, tiny_model(), str(path))
