import pytest
import torch
from torchvision.models import resnet18, resnet50

from flowdet.engine import FlowDetCheckpointer
from tests.detection.tiny import batch, tiny_model


def frozen_resnet(**keys):
    return tiny_model(file="voc_flow_r18_frozen.yaml", FEATURE_CACHE_GIB=0.0, **keys)


def load(model, path, folder=""):
    return FlowDetCheckpointer(model, str(folder)).load(str(path))


def save(tmp_path, state, name="weights.pth"):
    torch.save(state, tmp_path / name)
    return tmp_path / name


@pytest.fixture(scope="module")
def teacher():
    """A torchvision ResNet-18 whose batch norms are not at their start."""
    torch.manual_seed(5)
    model = resnet18(weights=None)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def up_to_layer3(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    return model.layer3(model.layer2(model.layer1(x)))


def test_a_torchvision_resnet_fills_the_whole_backbone(tmp_path, teacher):
    model = frozen_resnet().eval()
    for tensor in model.backbone.state_dict().values():
        tensor.fill_(float("nan"))
    load(model, save(tmp_path, teacher.state_dict()))
    for name, tensor in model.backbone.state_dict().items():
        assert torch.isfinite(tensor).all(), name
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(x)["res4"], up_to_layer3(teacher, x))


def test_a_torchvision_resnet50_fits_too(tmp_path):
    torch.manual_seed(0)
    teacher = resnet50(weights=None).eval()
    model = tiny_model(file="voc_flow_r50_strong.yaml").eval()
    load(model, save(tmp_path, teacher.state_dict()))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(x)["res4"], up_to_layer3(teacher, x))


def test_another_depth_says_so(tmp_path):
    path = save(tmp_path, resnet50(weights=None).state_dict())
    with pytest.raises(ValueError, match="does not fit.*backbone"):
        load(frozen_resnet(), path)


def test_our_own_checkpoint_comes_back_as_it_was(tmp_path):
    model = tiny_model(seed=1)
    model(batch())
    FlowDetCheckpointer(model, str(tmp_path)).save("model_final")
    other = tiny_model(seed=2)
    load(other, tmp_path / "model_final.pth")
    expected = model.state_dict()
    assert expected["local.iterations"] == 1
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_backbone_weights_alone_leave_the_rest(tmp_path):
    donor = tiny_model(seed=1)
    state = {f"backbone.{k}": v for k, v in donor.backbone.state_dict().items()}
    model, untouched = tiny_model(seed=2), tiny_model(seed=2)
    load(model, save(tmp_path, {"model": state}))
    for name, tensor in model.state_dict().items():
        source = donor if name.startswith("backbone.") else untouched
        assert torch.equal(tensor, source.state_dict()[name]), name


def test_missing_file(tmp_path):
    checkpointer = FlowDetCheckpointer(tiny_model())
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="no checkpoint .*nowhere.pth.*MODEL.WEIGHTS"):
            checkpointer.load(str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
@pytest.mark.parametrize("content", [b"", b"hello, this is no checkpoint", b"\x80\x02K"])
def test_not_a_checkpoint(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    checkpointer = FlowDetCheckpointer(tiny_model())
    # the second time the same, not an error about the first
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{name} is not a readable checkpoint"):
            checkpointer.load(str(tmp_path / name))


@pytest.mark.parametrize("content", [[1, 2], {"model": [1, 2]}, torch.zeros(3)])
def test_a_file_of_something_else(tmp_path, content):
    with pytest.raises(ValueError, match="weights.pth"):
        load(tiny_model(), save(tmp_path, content))


def test_another_class_count(tmp_path):
    path = save(tmp_path, {"model": tiny_model(NUM_CLASSES=5).state_dict()})
    with pytest.raises(ValueError, match="heads.classes.weight.*MODEL.REINIT_CLASSES True"):
        load(tiny_model(), path)


def test_other_classes_of_the_same_number(tmp_path, caplog):
    model, names = tiny_model(NUM_CLASSES=3), ["cat", "dog", "emu"]
    FlowDetCheckpointer(model, str(tmp_path), class_names=names).save("model")
    path, fresh = str(tmp_path / "model.pth"), tiny_model(NUM_CLASSES=3)
    other = ["cat", "dog", "owl"]
    with pytest.raises(ValueError, match=r"emu \(here owl\). set MODEL.REINIT_CLASSES True"):
        FlowDetCheckpointer(fresh, class_names=other).load(path)

    before = {k: v.clone() for k, v in fresh.state_dict().items()}
    FlowDetCheckpointer(fresh, class_names=other, reinit_classes=True).load(path)
    assert "heads.classes.weight" in caplog.text and "start anew" in caplog.text
    theirs, kept = model.state_dict(), 0
    for name, value in fresh.state_dict().items():
        is_class = name.startswith(model.class_tensors)
        assert torch.equal(value, before[name] if is_class else theirs[name])
        kept += is_class
    assert kept > 1
    # those who do not say their classes take any, and the same classes are no question
    FlowDetCheckpointer(fresh).load(path)
    FlowDetCheckpointer(fresh, class_names=names).load(path)
    assert torch.equal(fresh.heads.classes.weight, model.heads.classes.weight)


def test_weights_that_match_nothing(tmp_path):
    path = save(tmp_path, {"model": {"encoder.weight": torch.zeros(3)}})
    with pytest.raises(ValueError, match="none of the model's weights.*encoder.weight"):
        load(tiny_model(), path)
