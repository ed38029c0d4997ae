"""The CNN and torchvision's ViT as backbones."""

import pytest
import torch
from torchvision.models import VisionTransformer

from flowdet.engine import FlowDetCheckpointer
from flowdet.flowcls.backbones import StageCNN, ViTBackbone
from tests.flowcls.tiny import tiny_cfg, tiny_model


def vit(**kwargs):
    torch.manual_seed(0)
    sizes = dict(image_size=16, patch_size=4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16)
    return VisionTransformer(**sizes, **kwargs).eval()


def test_cnn_stages():
    cnn = StageCNN(3, [4, 6, 8])
    out = cnn(torch.randn(2, 3, 32, 32))
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "stage1": (2, 4, 16, 16),
        "stage2": (2, 6, 8, 8),
        "stage3": (2, 8, 4, 4),
    }
    assert {k: (s.channels, s.stride) for k, s in cnn.output_shape().items()} == {
        "stage1": (4, 2),
        "stage2": (6, 4),
        "stage3": (8, 8),
    }


def test_last_layer_is_the_output_of_torchvision_s_encoder():
    model, x = vit(num_classes=5), torch.randn(2, 3, 16, 16)
    heads = model.heads
    expected = model(x)
    out = ViTBackbone(model)(x)
    assert list(out) == ["layer1", "layer2", "layer3"]
    assert out["layer1"].shape == (2, 17, 8)
    torch.testing.assert_close(heads(out["layer3"][:, 0]), expected, rtol=0, atol=1e-4)


def test_conv_stem_has_as_many_patches_as_the_linear_one():
    backbone = tiny_model("tiny_imagenet_flow_vit", "MODEL.VIT.PATCH_SIZE", "8").backbone
    assert backbone(torch.randn(2, 3, 64, 64))["layer3"].shape == (2, 65, 16)
    convolutions = [m for m in backbone.vit.conv_proj.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.stride[0] for c in convolutions] == [2, 2, 2, 1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["INPUT.FIXED_SIZE", [32, 48]], "square"),
        (["INPUT.FIXED_SIZE", [30, 30]], "multiple of MODEL.VIT.PATCH_SIZE = 8"),
        (["MODEL.VIT.NUM_HEADS", 3], "not a multiple of NUM_HEADS"),
        (["INPUT.FIXED_SIZE", [32]], "FIXED_SIZE is .32., but must be .height, width."),
        (["MODEL.VIT.PATCH_SIZE", 0], "PATCH_SIZE is 0, but must be at least 1"),
        (["MODEL.VIT.NUM_LAYERS", 0], "NUM_LAYERS is 0, but must be at least 1"),
        (["MODEL.BACKBONE.NAME", "build_cnn_backbone", "MODEL.CNN.CHANNELS", []], "CNN.CHANNELS"),
        (["MODEL.VIT.STEM", "marble"], "STEM is 'marble'"),
        (["MODEL.VIT.STEM", "conv", "MODEL.VIT.PATCH_SIZE", 1], "power of 2"),
    ],
)
def test_wrong_sizes_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        tiny_model("digits_flow_vit", *overrides)


def test_torchvision_weights_fill_the_backbone(tmp_path):
    torch.manual_seed(7)
    # the sizes of tiny_cfg
    teacher = VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=64
    )
    torch.save(teacher.state_dict(), tmp_path / "vit.pth")
    model = tiny_model()
    FlowDetCheckpointer(model).load(str(tmp_path / "vit.pth"))
    teacher.heads = torch.nn.Identity()
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, model.backbone.vit.state_dict()[name]), name


def test_torchvision_weights_of_another_image_size_are_refused(tmp_path):
    teacher = VisionTransformer(
        image_size=64, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=64
    )
    torch.save(teacher.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(ValueError, match="pos_embedding.*INPUT.FIXED_SIZE"):
        FlowDetCheckpointer(tiny_model()).load(str(tmp_path / "vit.pth"))


def test_sizes_of_the_paper():
    cfg = tiny_cfg("cifar10_flow_vit_b16")
    assert cfg.INPUT.FIXED_SIZE == [224, 224] and cfg.SOLVER.IMS_PER_BATCH == 32
