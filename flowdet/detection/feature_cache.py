"""Features of a frozen backbone, computed once per distinct image."""

from __future__ import annotations

import hashlib
import logging

import torch
from torch import Tensor, nn


class FeatureCache:
    """Keeps the feature maps of a frozen backbone in main memory, in float16.

    An image is known by its pixels after augmentation, so a flip is another image and every
    augmentation is right; only those with few outcomes (none, or flips) are worth caching.

    Args:
        max_gib: of memory; images that come when it is full are computed each time.
    """

    def __init__(self, max_gib: float):
        self.max_bytes = int(max_gib * 2**30)
        self.bytes = 0
        self.store: dict[bytes, dict[str, Tensor]] = {}

    def __deepcopy__(self, memo: dict) -> FeatureCache:
        """Empty: a copied model may get other weights, and memory is for one cache."""
        return FeatureCache(self.max_bytes / 2**30)

    def clear(self) -> None:
        """Forgets all features, for when the backbone's weights have changed."""
        self.bytes = 0
        self.store.clear()

    @staticmethod
    def check(backbone: nn.Module) -> None:
        """Raises ValueError if the backbone can change or depends on the other images."""
        trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
        norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if trained or norms:
            raise ValueError(
                "MODEL.FLOW_DET.FEATURE_CACHE_GIB needs a frozen backbone, but "
                f"{trained[0] if trained else 'its batch normalisation'} is trained: set "
                "MODEL.BACKBONE.FREEZE_AT and MODEL.RESNETS.NORM FrozenBN"
            )

    @torch.no_grad()
    def __call__(self, backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """What `backbone(images)` returns, images [B, C, H, W], in their dtype."""
        keys = [_key(image) for image in images]
        new = {key: i for i, key in enumerate(keys) if key not in self.store}
        rows: dict[bytes, dict[str, Tensor]] = {}
        if new:
            computed = backbone(images[list(new.values())])
            for place, key in enumerate(new):
                rows[key] = {name: x[place].half().cpu() for name, x in computed.items()}
                self._keep(key, rows[key])
        found = [rows.get(key) or self.store[key] for key in keys]
        return {
            name: torch.stack([row[name] for row in found]).to(images.device, images.dtype)
            for name in found[0]
        }

    def _keep(self, key: bytes, row: dict[str, Tensor]) -> None:
        size = sum(x.numel() * x.element_size() for x in row.values())
        if self.bytes + size <= self.max_bytes:
            self.store[key] = row
            self.bytes += size
        elif self.max_bytes:
            logging.getLogger(__name__).warning(
                "the feature cache is full at %d images; raise "
                "MODEL.FLOW_DET.FEATURE_CACHE_GIB to hold more",
                len(self.store),
            )
            # said once; what is there goes on to serve
            self.max_bytes = 0


def _key(image: Tensor) -> bytes:
    """What an image is known by: its shape and its pixels."""
    digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
    digest.update(image.cpu().numpy().tobytes())
    return digest.digest()
