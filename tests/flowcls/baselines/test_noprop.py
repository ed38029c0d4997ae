"""NoProp: noise schedules, losses and inference of the three variants."""

import math

import pytest
import torch
from detectron2.utils.events import EventStorage

from flowdet.experiments.memory import SavedBytes
from flowdet.flowcls.baselines.noprop_processes import (
    ContinuousTime,
    DiscreteTime,
    FlowMatching,
    cosine_schedule,
    noisy,
    prior_divergence,
)
from tests.flowcls.tiny import (
    assert_batch_has_no_effect,
    assert_labels_have_no_effect,
    images,
    tiny_model,
)

VARIANTS = ("dt", "ct", "fm")
FILES = [
    f"baselines/digits_noprop_{variant}_{net}" for variant in VARIANTS for net in ("cnn", "vit")
]
DT_FILES = FILES[:2]
EMBEDDINGS = ("one_hot", "learned")


def model_of(file, *overrides, **keys):
    words = [x for name, value in keys.items() for x in (f"MODEL.NOPROP.{name}", value)]
    return tiny_model(file, "MODEL.NOPROP.HIDDEN_DIM", 16, *words, *overrides)


def trained(model):
    """Names of the parameters that have a gradient other than 0."""
    return {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def block_of(name):
    """The block that a parameter belongs to, or None."""
    part, index = name.split(".")[:2]
    return int(index) if part in ("backbone", "heads") else None


def no_class_loss(z):
    return z.sum() * 0


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("file", DT_FILES)
def test_loss_of_a_block_trains_no_other_block(file, embedding):
    model = model_of(file, EMBEDDING=embedding).train()
    batch = images()
    pixels, labels = model.images_of(batch), model.labels_of(batch)
    for block in range(model.process.num_blocks):
        model.zero_grad()
        sum(model.block_loss(block, pixels, labels, no_class_loss).values()).backward()
        assert {block_of(name) for name in trained(model)} == {block}


@pytest.mark.parametrize("file", DT_FILES)
def test_gradients_are_those_of_the_blocks_own_losses(file):
    model = model_of(file).double().train()
    batch = images()
    pixels, labels = model.images_of(batch).double(), model.labels_of(batch)
    torch.manual_seed(3)
    sum(model.image_losses(pixels, labels).values()).backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert all(gradient.isfinite().all() for gradient in together.values())
    torch.manual_seed(3)
    for block in range(model.process.num_blocks):
        model.zero_grad()
        sum(model.block_loss(block, pixels, labels, no_class_loss).values()).backward()
        for name, p in model.named_parameters():
            if block_of(name) == block:
                torch.testing.assert_close(together[name], p.grad, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("file", DT_FILES)
def test_class_loss_trains_only_embedding_and_read_out(file):
    model = model_of(file, EMBEDDING="learned").train()
    batch = images()
    pixels, labels = model.images_of(batch), model.labels_of(batch)
    losses = model.image_losses(pixels, labels)
    losses["loss_class"].backward()
    assert {name.split(".")[0] for name in trained(model)} == {"embedding"}
    assert len(trained(model)) == 3


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("file", FILES)
def test_all_parts_are_trained(file, embedding):
    model = model_of(file, EMBEDDING=embedding).train()
    for _ in range(3):
        sum(model(images()).values()).backward()
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names == trained(model)
    assert ("embedding.classes.weight" in names) == (embedding == "learned")


@pytest.mark.parametrize("file", FILES)
def test_predictions_and_features_do_not_depend_on_labels(file):
    model = model_of(file).eval()
    assert_labels_have_no_effect(model)


@pytest.mark.parametrize("file", FILES)
def test_results_do_not_depend_on_the_batch(file):
    model = model_of(file).eval()
    assert_batch_has_no_effect(model)


@pytest.mark.parametrize("file", FILES[:4])
def test_noise_of_inference_has_a_seed(file):
    one, same, other = (model_of(file, NOISE_SEED=s).eval()(images(1)) for s in (0, 0, 1))
    assert torch.equal(one[0]["logits"], same[0]["logits"])
    assert not torch.equal(one[0]["logits"], other[0]["logits"])


def test_layer_features_are_the_stages_and_the_state_of_every_block():
    model = model_of(FILES[0], NUM_BLOCKS=2).eval()
    batch = images()
    features = model.layer_features(batch)
    stages = ["stage1", "stage2", "stage3"]
    assert list(features) == [
        *(f"block0_{x}" for x in stages),
        "block0",
        *(f"block1_{x}" for x in stages),
        "block1",
    ]
    logits = torch.stack([x["logits"][0] for x in model(batch)])
    torch.testing.assert_close(model.embedding.logits(features["block1"]), logits)
    with pytest.raises(ValueError, match="call model.eval"):
        model.train().layer_features(batch)


def test_saved_activations_do_not_grow_with_the_blocks():
    def peak(blocks):
        model = model_of(FILES[0], NUM_BLOCKS=blocks).train()
        pixels, labels = model.images_of(images()), model.labels_of(images())
        with SavedBytes(model).counting() as saved:
            sum(model.image_losses(pixels, labels).values()).backward()
        return saved.peak

    assert 0 < peak(6) <= 1.1 * peak(2)


@pytest.mark.parametrize("file", FILES)
def test_training_lowers_the_losses_of_a_batch(file):
    model = model_of(file).train()
    batch = images(8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    totals = []
    for _ in range(15):
        torch.manual_seed(0)
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        totals.append({name: loss.item() for name, loss in losses.items()})
    for name in ("loss_denoise", "loss_class"):
        assert totals[-1][name] < totals[0][name]


def test_cosine_schedule_by_hand():
    """Without offset: cos(pi/4)^2 = 1/2 in the middle."""
    assert cosine_schedule(2, 0.0) == pytest.approx([0.0, 0.5, 1.0])
    schedule = cosine_schedule(10)
    assert schedule[0] == 0 and schedule[-1] == pytest.approx(0.999845, abs=1e-6)
    assert schedule == sorted(schedule)


def test_coefficients_by_hand():
    process = DiscreteTime([0.0, 0.5, 0.8])
    # from N(0, I): only the prediction counts
    assert process.coefficients(1) == pytest.approx((math.sqrt(0.5), 0.0, 0.5))
    # r = 0.625: a = sqrt(0.8) 0.375 / 0.5, b = sqrt(0.625) 0.2 / 0.5, c = 0.2 * 0.375 / 0.5
    expected = (0.75 * math.sqrt(0.8), 0.4 * math.sqrt(0.625), 0.15)
    assert process.coefficients(2) == pytest.approx(expected)


def test_a_step_with_a_correct_prediction_keeps_the_distribution():
    """If z_{t-1} has the distribution q(z_{t-1} | y), and uhat = u_y, then z_t has q(z_t | y)."""
    process = DiscreteTime(cosine_schedule(5))
    for t in range(1, 6):
        a, b, c = process.coefficients(t)
        before, after = process.alpha_bar[t - 1 : t + 1]
        assert a + b * math.sqrt(before) == pytest.approx(math.sqrt(after))
        assert b**2 * (1 - before) + c == pytest.approx(1 - after)


def test_discrete_loss_by_hand():
    """SNR is 0, 1 and 4, and the squared errors are 2 and 5."""
    process = DiscreteTime([0.0, 0.5, 0.8])
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    errors = torch.tensor([[[1.0, 1.0], [1.0, -1.0]], [[1.0, 2.0], [-1.0, 2.0]]])
    seen = []

    def predict(block, z, t):
        seen.append((block, z.shape))
        return target + errors[block]

    losses = [process.block_loss(k, predict, target, no_class_loss) for k in (0, 1)]
    assert [x["loss_denoise"].item() for x in losses] == pytest.approx([1 * 2, 3 * 5])
    assert seen == [(0, (2, 2)), (1, (2, 2))]


def test_weight_of_the_denoising_loss_is_half_of_eta():
    totals = []
    for eta in (0.1, 0.4):
        model = model_of(FILES[0], ETA=eta).train()
        pixels, labels = model.images_of(images()), model.labels_of(images())
        torch.manual_seed(0)
        totals.append(model.block_loss(1, pixels, labels, no_class_loss)["loss_denoise"].item())
        assert model.denoise_weight == eta / 2
    assert totals[1] == pytest.approx(4 * totals[0], rel=1e-4)


def test_discrete_inference_by_hand():
    process = DiscreteTime([0.0, 0.5, 0.8])
    noise = torch.tensor([[[9.0], [1.0], [2.0]]])
    predictions = torch.tensor([[[1.0]], [[3.0]]])
    seen = []

    def predict(block, z, t):
        seen.append((block, z.item()))
        return predictions[block]

    first, second = process.states(predict, noise)
    assert seen == [(0, 9.0), (1, first.item())]
    # z_0 = 9 has no weight
    z_1 = math.sqrt(0.5) * 1 + math.sqrt(0.5) * 1
    assert first.item() == pytest.approx(z_1, rel=1e-4)
    expected = 0.75 * math.sqrt(0.8) * 3 + 0.4 * math.sqrt(0.625) * z_1 + math.sqrt(0.15) * 2
    assert second.item() == pytest.approx(expected, rel=1e-4)


def test_learned_schedule_is_monotone_with_fixed_ends_and_the_stated_derivative():
    torch.manual_seed(0)
    process = ContinuousTime((-3.0, 4.0), 5).double()
    with torch.no_grad():
        for parameter in process.parameters():
            parameter.add_(torch.randn_like(parameter))
    t = torch.linspace(0, 1, 21, dtype=torch.double, requires_grad=True)
    value, derivative = process.log_snr(t)
    (expected,) = torch.autograd.grad(value.sum(), t)
    torch.testing.assert_close(derivative, expected, rtol=1e-4, atol=1e-4)
    assert value[0].item() == pytest.approx(-3, abs=1e-4)
    assert value[-1].item() == pytest.approx(4, abs=1e-4)
    assert (derivative > 0).all()


@pytest.mark.parametrize(("uniform", "weight"), [(False, 2), (True, 1)])
def test_continuous_loss_by_hand(uniform, weight, monkeypatch):
    """With log SNR = 2 t - 1 at t = 1/2: SNR = 1, SNR' = 2. The squared errors are 2 and 4."""
    process = ContinuousTime((-1.0, 1.0), 5, uniform)
    linear = lambda t: (2 * t - 1, torch.full_like(t, 2.0))  # noqa: E731
    monkeypatch.setattr(process, "log_snr", linear)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.5))
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    errors = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    losses = process.block_loss(0, lambda block, z, t: target + errors, target, no_class_loss)
    assert losses["loss_denoise"].item() == pytest.approx(weight * (2 + 4) / 2)


def test_weight_of_a_time_is_that_of_the_config():
    """With uniform weights the schedule is fixed, and everything else is trained."""
    losses = {}
    for weight in ("snr", "uniform"):
        model = model_of("baselines/digits_noprop_ct_cnn", TIME_WEIGHT=weight)
        torch.manual_seed(0)
        with EventStorage():
            losses[weight] = model.train()(images())
            sum(losses[weight].values()).backward()
        schedule = {f"process.{name}" for name, _ in model.process.named_parameters()}
        assert trained(model) & schedule == (schedule if weight == "snr" else set())
        assert any(name.startswith("backbone.0.stages.0") for name in trained(model))
    for name in ("loss_class", "loss_prior"):
        assert losses["snr"][name].item() == losses["uniform"][name].item()
    assert losses["snr"]["loss_denoise"].item() != losses["uniform"]["loss_denoise"].item()


def test_continuous_inference_is_exact_for_a_constant_prediction():
    process = ContinuousTime((-2.0, 2.0), 3)
    z_0, u = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0, 0.0]])
    last = process.states(lambda block, z, t: u, z_0[:, None])[-1]
    first, final = torch.tensor([-2.0, 2.0]).sigmoid()
    noise = (z_0 - first.sqrt() * u) / (1 - first).sqrt()
    expected = final.sqrt() * u + (1 - final).sqrt() * noise
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-4)


def test_flow_matching_loss_by_hand(monkeypatch):
    """z_0 = (1, 1), t = 1/4. For v = 0 the squared error is |z_1 - z_0|^2, and z_1 is z_t."""
    module = "flowdet.flowcls.baselines.noprop_processes"
    monkeypatch.setattr(f"{module}.training_noise", lambda shape, scale, _: torch.ones(shape))
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.25))
    seen = []

    def class_loss(z):
        seen.append(z)
        return torch.tensor(0.5)

    target = torch.tensor([[3.0, 0.0]])
    losses = FlowMatching(4).block_loss(
        0, lambda block, z, t: torch.zeros_like(z), target, class_loss
    )
    assert losses["loss_denoise"].item() == pytest.approx(4 + 1)
    assert losses["loss_class"].item() == 0.5
    assert seen[0].flatten().tolist() == pytest.approx([1.5, 0.75])


def test_flow_matching_inference_by_hand():
    """dz/dt = t in two Euler steps: z_0 + 0 / 2 + 0.5 / 2."""
    noise = torch.tensor([[[1.0]]])
    states = FlowMatching(2).states(lambda block, z, t: t[:, None], noise)
    assert [z.item() for z in states] == pytest.approx([1.0, 1.25])


def test_prior_divergence_by_hand():
    target = torch.tensor([[1.0, 2.0]])
    normal = torch.distributions.Normal
    first = normal(math.sqrt(0.3) * target, math.sqrt(0.7))
    expected = torch.distributions.kl_divergence(first, normal(0.0, 1.0)).sum().item()
    assert prior_divergence(target, 0.3).item() == pytest.approx(expected, rel=1e-4)
    assert prior_divergence(target, 0.0).item() == 0


def test_noisy_embeddings_have_the_stated_mean_and_variance():
    torch.manual_seed(0)
    z = noisy(torch.full((20000, 1), 2.0), torch.tensor(0.64))
    assert z.mean().item() == pytest.approx(1.6, abs=0.02)
    assert z.var().item() == pytest.approx(0.36, abs=0.02)


def test_prediction_is_the_mean_of_the_embeddings():
    model = model_of(FILES[0], EMBEDDING="learned", EMBEDDING_DIM=3).eval()
    features = torch.randn(2, 8 * 16, generator=torch.Generator().manual_seed(0))
    z, t = torch.zeros(2, 3), torch.zeros(2)
    probabilities = model.heads[0](features, z, t).softmax(dim=1)
    expected = torch.stack([(p[:, None] * model.embedding.table()).sum(0) for p in probabilities])
    torch.testing.assert_close(model.predict(0, features, z, t), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("VARIANT", "sde", "VARIANT is 'sde', but must be one of dt, ct, fm"),
        ("TIME_WEIGHT", "log", "TIME_WEIGHT is 'log', but must be one of snr, uniform"),
        ("NUM_BLOCKS", 0, "NUM_BLOCKS is 0, but must be at least 1"),
        ("EMBEDDING", "random", "EMBEDDING is 'random', but must be one of one_hot, learned"),
        ("EMBEDDING_DIM", 0, "EMBEDDING_DIM is 0, but must be at least 1"),
        ("FEATURE_GRID", 0, "FEATURE_GRID is 0, but must be at least 1"),
        ("HIDDEN_DIM", 7, "HIDDEN_DIM is 7, but must be even and above 0"),
        ("ETA", 0.0, "ETA is 0.0, but must be above 0"),
        ("LOG_SNR", [1.0], r"LOG_SNR is \[1.0\], but must be 2 values"),
        ("LOG_SNR", [2.0, 2.0], r"LOG_SNR is \[2.0, 2.0\], but must be 2 values"),
        ("NUM_STEPS", 0, "NUM_STEPS is 0, but must be at least 1"),
    ],
)
def test_wrong_keys_are_named(key, value, message):
    with pytest.raises(ValueError, match=f"MODEL.NOPROP.{message}"):
        tiny_model(FILES[0], f"MODEL.NOPROP.{key}", value)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="NUM_CLASSES must be at least 2"):
        tiny_model(FILES[0], NUM_CLASSES=1)
