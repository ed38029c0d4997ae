import pytest
import torch

from flowdet.flow import TimeEmbedding


def test_embedding_tells_times_apart():
    code = TimeEmbedding(16)(torch.tensor([0.0, 0.5, 0.51, 1.0]))
    assert code.shape == (4, 16)
    assert torch.pdist(code).min() > 1e-3


def test_embedding_needs_an_even_dimension():
    with pytest.raises(ValueError, match="even"):
        TimeEmbedding(7)
