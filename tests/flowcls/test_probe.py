"""The linear probe."""

import torch

from flowdet.flowcls.probe import LinearProbe
from tests.flowcls.tiny import images, tiny_model


def test_probe_passes_no_gradient_to_the_model():
    model = tiny_model().train()
    batch = images()
    features = model.backbone(model.images_of(batch))
    model.probe.loss(features[model.last_stage], model.labels_of(batch)).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"probe.classifier.weight", "probe.classifier.bias"}


def test_batch_of_one_image_trains():
    losses = tiny_model().train()(images(1))
    assert all(loss.isfinite() for loss in losses.values())


def test_scale_of_the_features_does_not_change_the_logits():
    torch.manual_seed(0)
    probe = LinearProbe(6, 3).train()
    tokens = torch.randn(32, 5, 6)
    small, large = probe(tokens), probe(1000 * tokens + 50)
    torch.testing.assert_close(small, large, rtol=0, atol=1e-2)


def test_probe_is_linear_at_inference():
    torch.manual_seed(0)
    probe = LinearProbe(6, 3).train()
    for _ in range(3):
        probe(2 + 3 * torch.randn(16, 6, 2, 2))
    probe.eval()
    one, two = torch.randn(2, 4, 6, 2, 2)
    middle = probe((one + two) / 2)
    torch.testing.assert_close(middle, (probe(one) + probe(two)) / 2, rtol=0, atol=1e-4)


def test_dropout_acts_only_in_training():
    torch.manual_seed(0)
    probe = LinearProbe(6, 3, dropout=0.5).train()
    features = torch.randn(16, 6)
    assert not torch.equal(probe(features), probe(features))
    probe.eval()
    assert torch.equal(probe(features), probe(features))
