import pytest
import torch

from flowdet.detection.tokens import ImageTokens
from flowdet.detection.transformer_block import QueryPosition, TransformerFlowBlock
from flowdet.flow import EncoderFlowBlock, MLPFlowBlock, ResidualMLPFlowBlock

B, M, N, D = 2, 5, 7, 16


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def transformer(**kwargs):
    return TransformerFlowBlock(D, num_heads=4, feedforward_dim=32, **kwargs).eval()


def test_transformer_is_equivariant_to_the_order_of_queries():
    block, code, tokens = transformer(), torch.randn(B, D), ImageTokens(torch.randn(B, N, D))
    z_t, order = torch.randn(B, M, D), torch.randperm(M)
    assert torch.allclose(
        block(z_t, code, tokens)[:, order], block(z_t[:, order], code, tokens), atol=1e-5
    )


def test_transformer_is_invariant_to_the_order_of_tokens():
    block, code, z_t = transformer(), torch.randn(B, D), torch.randn(B, M, D)
    tokens, position, order = torch.randn(B, N, D), torch.randn(B, N, D), torch.randperm(N)
    one = block(z_t, code, ImageTokens(tokens, position))
    other = block(z_t, code, ImageTokens(tokens[:, order], position[:, order]))
    assert torch.allclose(one, other, atol=1e-5)


def test_padding_is_not_seen():
    block, code, z_t = transformer(), torch.randn(B, D), torch.randn(B, M, D)
    tokens = torch.randn(B, N, D)
    padding = torch.zeros(B, N, dtype=torch.bool)
    padding[:, 4:] = True
    with_padding = block(z_t, code, ImageTokens(tokens, padding=padding))
    assert torch.allclose(with_padding, block(z_t, code, ImageTokens(tokens[:, :4])), atol=1e-5)


def test_time_estimate_and_position_matter():
    block = transformer(self_conditioned=True)
    code, tokens = torch.randn(B, D), ImageTokens(torch.randn(B, N, D), torch.randn(B, N, D))
    z_t, estimate = torch.randn(B, M, D), torch.randn(B, M, D)
    out = block(z_t, code, tokens, estimate)
    assert not torch.allclose(out, block(z_t, torch.randn(B, D), tokens, estimate))
    assert not torch.allclose(out, block(z_t, code, tokens, torch.randn(B, M, D)))
    position = QueryPosition(cross=torch.randn(1, M, D))
    assert not torch.allclose(out, block(z_t, code, tokens, estimate, position))


def test_self_conditioned_block_asks_for_an_estimate():
    block = transformer(self_conditioned=True)
    with pytest.raises(ValueError, match="needs an estimate"):
        block(torch.randn(B, M, D), torch.randn(B, D), ImageTokens(torch.randn(B, N, D)))


def test_tied_position_starts_with_equal_projections():
    weight = transformer(tie_position=True).cross_attention.in_proj_weight
    assert torch.equal(weight[:D], weight[D : 2 * D])
    weight = transformer().cross_attention.in_proj_weight
    assert not torch.equal(weight[:D], weight[D : 2 * D])


@pytest.mark.parametrize("num_layers", [2, 4])
def test_mlp_block(num_layers):
    block = MLPFlowBlock(D, feature_dim=3, hidden_dim=8, num_layers=num_layers)
    z_t, code, features = torch.randn(B, D), torch.randn(B, D), torch.randn(B, 3)
    out = block(z_t, code, features)
    assert out.shape == (B, D)
    # one image per row: nothing leaks between them
    assert torch.allclose(out[:1], block(z_t[:1], code[:1], features[:1]), atol=1e-6)
    assert not torch.allclose(out, block(z_t, code, features + 1))


def test_mlp_block_needs_two_layers():
    with pytest.raises(ValueError, match="at least 2 layers"):
        MLPFlowBlock(D, 3, num_layers=1)


@pytest.mark.parametrize("kind", [MLPFlowBlock, ResidualMLPFlowBlock])
def test_positions_are_seen_one_by_one_and_averaged(kind):
    block = kind(D, feature_dim=3, hidden_dim=8)
    z_t, code, features = torch.randn(B, D), torch.randn(B, D), torch.randn(B, N, 3)
    out = block(z_t, code, features)
    one_by_one = torch.stack([block(z_t, code, features[:, n]) for n in range(N)])
    torch.testing.assert_close(out, one_by_one.mean(dim=0))


def test_residual_block_depends_on_all_it_is_given():
    block = ResidualMLPFlowBlock(D, feature_dim=3, num_layers=3, self_conditioned=True)
    given = [torch.randn(B, D), torch.randn(B, D), torch.randn(B, 3), torch.randn(B, D)]
    out = block(*given)
    assert out.shape == (B, D)
    for i in range(4):
        changed = [x + 1 if i == k else x for k, x in enumerate(given)]
        assert not torch.allclose(out, block(*changed))


def test_encoder_block_is_invariant_to_the_order_of_tokens():
    block = EncoderFlowBlock(D, feature_dim=12, num_heads=4, hidden_dim=8).eval()
    z_t, code, tokens = torch.randn(B, D), torch.randn(B, D), torch.randn(B, N, 12)
    out = block(z_t, code, tokens)
    assert out.shape == (B, D)
    torch.testing.assert_close(out, block(z_t, code, tokens[:, torch.randperm(N)]))
    assert not torch.allclose(out, block(z_t, code, tokens * 2))
    assert not torch.allclose(out, block(z_t + 1, code, tokens))
