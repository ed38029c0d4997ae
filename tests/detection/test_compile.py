"""The steps of a detector are one graph for torch.compile."""

import torch

from tests.detection.tiny import batch, tiny_model


@torch.no_grad()
def test_steps_and_stability_are_one_graph():
    model = tiny_model(STABILITY_SAMPLES=2, NUM_BLOCKS=1, NUM_STEPS=2).eval()

    def decode(tokens, z_0):
        refinement = model.refine(tokens, z_0=z_0)
        return *model.heads(refinement.z_1), model.stability_factors(refinement)

    # the noise is an input, because a graph cannot make a generator
    inputs = model.encode(batch()), model.initial_noise(2)
    # with `fullgraph`, anything that would split the graph is an error; this backend needs no
    # C++ compiler
    compiled = torch.compile(decode, backend="eager", fullgraph=True)
    for values, expected in zip(compiled(*inputs), decode(*inputs), strict=True):
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-4)
