import pytest
import torch

from flowdet.flow import TimeEmbedding, draw_time


def test_uniform_covers_the_unit_interval():
    torch.manual_seed(0)
    t = draw_time(4000)
    assert 0 <= t.min() and t.max() < 1
    assert abs(t.mean() - 0.5) < 0.02


@pytest.mark.parametrize("block", [0, 2, 3])
def test_interval_stays_with_its_block(block):
    t = draw_time(1000, "interval", block=block, num_blocks=4)
    assert t.min() >= block / 4 and t.max() <= (block + 1) / 4
    assert t.max() - t.min() > 0.2


def test_zero_share():
    torch.manual_seed(0)
    assert (draw_time(4000, zero_share=0.25) == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(draw_time(10, zero_share=1.0), torch.zeros(10))


def test_a_generator_makes_it_repeatable():
    first, second = (draw_time(5, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)


def test_unknown_distribution():
    with pytest.raises(ValueError, match="unknown time distribution 'gauss'"):
        draw_time(3, "gauss")


def test_embedding_tells_times_apart():
    code = TimeEmbedding(16)(torch.tensor([0.0, 0.5, 0.51, 1.0]))
    assert code.shape == (4, 16)
    assert torch.pdist(code).min() > 1e-3


def test_embedding_needs_an_even_dimension():
    with pytest.raises(ValueError, match="even"):
        TimeEmbedding(7)
