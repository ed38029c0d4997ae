"""BackpropDetector: end-to-end gradients and what it shares with the flow detector."""

import pytest
import torch

from tests.detection.tiny import batch, record, tiny_model


def backprop(**keys):
    return tiny_model(file="digits_backprop.yaml", **keys)


def gradients(model, inputs):
    model.zero_grad(set_to_none=True)
    sum(model(inputs).values()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_the_first_block_gets_a_gradient_of_the_last_loss():
    by_name = gradients(backprop(AUXILIARY_LOSSES=False), batch())
    for k in range(3):
        assert by_name[f"blocks.{k}.input.state.weight"].abs().sum() > 0


def test_auxiliary_losses_add_the_other_layers():
    last, every = (backprop(AUXILIARY_LOSSES=flag)(batch()) for flag in (False, True))
    assert last.keys() == every.keys() == {"loss_cls", "loss_bbox", "loss_giou"}
    assert every["loss_giou"] > 2 * last["loss_giou"]


@pytest.mark.parametrize("file", ["digits_flow.yaml", "digits_backprop.yaml"])
def test_the_weight_of_the_first_block_scales_its_losses(file):
    def losses(weight):
        torch.manual_seed(0)
        by_name = tiny_model(file=file, FIRST_BLOCK_WEIGHT=weight)(batch())
        return torch.stack(list(by_name.values()))

    # with 0.5 and more, only the first of three blocks has less than full weight
    one, less, half = losses(1.0), losses(0.75), losses(0.5)
    torch.testing.assert_close(one - less, less - half, rtol=1e-3, atol=1e-4)
    assert torch.all(one > half)


def test_detached_layers_get_gradients_of_their_own_loss_only():
    model = backprop(DETACH_LAYERS=True)
    layers = model.layers(model.encode(batch()))
    for k, layer in enumerate(layers):
        model.zero_grad(set_to_none=True)
        layer.sum().backward(retain_graph=True)
        reached = {
            name.split(".")[1]
            for name, p in model.named_parameters()
            if name.startswith("blocks.") and p.grad is not None
        }
        assert reached == {str(k)}
    whole = backprop()
    same = whole.layers(whole.encode(batch()))
    for layer, expected in zip(layers, same, strict=True):
        torch.testing.assert_close(layer, expected)
    with pytest.raises(ValueError, match="DETACH_LAYERS.*AUXILIARY_LOSSES True"):
        backprop(DETACH_LAYERS=True, AUXILIARY_LOSSES=False)


@pytest.mark.parametrize("matching, matchings", [("per_block", 3), ("shared", 1)])
def test_layers_match_by_themselves_or_share_the_first_matching(matching, matchings):
    model, calls = backprop(MATCHING=matching), []
    model.matcher.register_forward_hook(lambda *call: calls.append(call))
    model(batch())
    assert len(calls) == matchings


def test_an_unknown_matching_is_refused():
    with pytest.raises(ValueError, match="MATCHING 'loose'.*per_block.*shared"):
        backprop(MATCHING="loose")


def test_checkpointing_changes_no_gradient_and_keeps_fewer_bytes():
    def run(checkpointed):
        kept = 0

        def pack(x):
            nonlocal kept
            kept += x.numel() * x.element_size()
            return x

        model = backprop(CHECKPOINT_BLOCKS=checkpointed)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            losses = model(batch())
        sum(losses.values()).backward()
        return kept, {name: p.grad for name, p in model.named_parameters()}

    (more, plain), (fewer, checkpointed) = run(False), run(True)
    assert fewer < 0.7 * more
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("recipe", ["recommended", "paper"])
def test_both_methods_differ_by_time_noise_and_targets_only(recipe):
    keys = {}
    if recipe == "paper":
        keys = {
            "ANCHORED_QUERIES": False,
            "BOX_ANCHORED_ATTENTION": False,
            "BOX_SAMPLES": 0,
            "SELF_CONDITIONING": False,
            "PREDICTION": "velocity",
        }
    flow, other = tiny_model(**keys), backprop(**keys)

    def sizes(model, *left_out):
        return sum(
            p.numel()
            for name, p in model.named_parameters()
            if not any(part in name for part in left_out)
        )

    own = ("time_embedding", "target_embedding", "input.estimate", "flow.start")
    assert sizes(flow, *own) == sizes(other, "queries")


def test_results_do_not_depend_on_the_batch():
    model = backprop().eval()
    inputs = [batch()[0], record(size=(48, 80), seed=5)]
    both, single = model(inputs), [model([x])[0] for x in inputs]
    for result, expected in zip(both, single):
        boxes = (x["instances"].pred_boxes.tensor for x in (result, expected))
        torch.testing.assert_close(*boxes, rtol=0, atol=0.01)


def test_trajectory_has_every_layer():
    model = backprop().eval()
    (result,) = model.inference(batch()[:1], trajectory=True)
    assert len(result["trajectory"]) == len(model.trajectory_times) == 3
    assert model.trajectory_times[-1] == 1
    last = result["trajectory"][-1].scores
    torch.testing.assert_close(last, result["instances"].scores)


def test_images_without_objects():
    losses = backprop()([record(seed=1), record(seed=2)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_bbox"] == 0 and losses["loss_cls"] > 0
