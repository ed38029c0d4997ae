"""Multi-head attention whose keys and values are projected apart from its queries.

The keys and values of the image tokens depend on the image only, so a solver projects them once
for each image and block, and not in every step. The weights are those of an
`nn.MultiheadAttention` with `batch_first=True`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class KeysValues(NamedTuple):
    """Projected keys and values.

    Attributes:
        keys, values: of the N tokens of B images, [B, heads, N, d / heads].
        mask: True for the tokens that a query attends to, [B, 1, 1, N] or [M, N]; None for all.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None

    def rows(self, index: Tensor) -> KeysValues:
        """Returns those of the images `index`."""
        mask = None if self.mask is None else self.mask[index]
        return KeysValues(self.keys[index], self.values[index], mask)


def project_keys_values(
    attention: nn.MultiheadAttention, keys: Tensor, values: Tensor, padding: Tensor | None = None
) -> KeysValues:
    """Projects keys and values [B, N, d].

    Args:
        attention: has the weights.
        keys, values: the inputs of the key and the value projection.
        padding: True for tokens that attention ignores, [B, N]; None without padding.
    """
    dim = attention.embed_dim
    weight, bias = attention.in_proj_weight[dim:], attention.in_proj_bias[dim:]
    key = F.linear(keys, weight[:dim], bias[:dim])
    value = F.linear(values, weight[dim:], bias[dim:])
    mask = None if padding is None else ~padding[:, None, None]
    return KeysValues(_split(key, attention), _split(value, attention), mask)


def attend(attention: nn.MultiheadAttention, queries: Tensor, context: KeysValues) -> Tensor:
    """Computes the attention of queries [B * S, M, d] to the projected tokens of B images.

    The S rows of an image follow each other. They share its keys and values, which are not copied.

    Returns:
        The attended values after the output projection, [B * S, M, d].
    """
    dim, batch = attention.embed_dim, context.keys.shape[0]
    query = F.linear(queries, attention.in_proj_weight[:dim], attention.in_proj_bias[:dim])
    query = query.reshape(batch, -1, dim)
    attended = _attention(attention, _split(query, attention), context)
    return attention.out_proj(attended).reshape(queries.shape)


def self_attend(
    attention: nn.MultiheadAttention, x: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Computes the attention of x [B, M, d] to itself, with other inputs of the value projection.

    Args:
        attention: has the weights.
        x: the inputs of the query and the key projection.
        values: the inputs of the value projection, [B, M, d].
        mask: True where the query in a row does not attend to that in a column, [M, M].
    """
    dim = attention.embed_dim
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    # queries and keys have the same input, so one multiplication computes both
    query, key = F.linear(x, weight[: 2 * dim], bias[: 2 * dim]).chunk(2, dim=-1)
    value = F.linear(values, weight[2 * dim :], bias[2 * dim :])
    parts = (_split(key, attention), _split(value, attention), None if mask is None else ~mask)
    attended = _attention(attention, _split(query, attention), KeysValues(*parts))
    return attention.out_proj(attended)


def _split(x: Tensor, attention: nn.MultiheadAttention) -> Tensor:
    """Splits vectors [B, N, d] into heads, [B, heads, N, d / heads]."""
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _attention(attention: nn.MultiheadAttention, query: Tensor, context: KeysValues) -> Tensor:
    """Computes the attention of every head, and joins the heads to [B, M, d]."""
    dropout = attention.dropout if attention.training else 0.0
    heads = F.scaled_dot_product_attention(
        query, context.keys, context.values, context.mask, dropout_p=dropout
    )
    return heads.transpose(1, 2).flatten(-2)
