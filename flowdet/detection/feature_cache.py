"""Features of a frozen backbone, computed once per distinct image."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn


class FeatureCache:
    """Keeps the feature maps of a frozen backbone in main memory, in float16.

    An image is known by its pixels after augmentation, so a flip is another image and every
    augmentation is right; only those with few outcomes (none, or flips) are worth caching.

    Args:
        max_gib: of memory; images that come when it is full are computed each time.
        folder: where what is kept is also written, so that the next run on the same images
            and weights finds it; "" for none.
    """

    def __init__(self, max_gib: float, folder: str = ""):
        self.max_gib = max_gib
        self.max_bytes = int(max_gib * 2**30)
        self.bytes = 0
        self.store: dict[bytes, dict[str, Tensor]] = {}
        self.files = _FeatureFiles(Path(folder)) if folder else None

    def __deepcopy__(self, memo: dict) -> FeatureCache:
        """Empty: a copied model may get other weights, and memory is for one cache."""
        return FeatureCache(self.max_gib, str(self.files.root) if self.files else "")

    def clear(self) -> None:
        """Forgets all features, for when the backbone's weights have changed."""
        self.bytes = 0
        self.store.clear()
        if self.files:
            self.files.weights = None

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
        rows = self._read(backbone, [key for key in keys if key not in self.store])
        new = {k: i for i, k in enumerate(keys) if k not in self.store and k not in rows}
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

    def _read(self, backbone: nn.Module, keys: list[bytes]) -> dict[bytes, dict[str, Tensor]]:
        """What the folder has of these images; it is in memory then, as far as it fits."""
        if not self.files:
            return {}
        self.files.use_weights_of(backbone)
        rows = {key: row for key in keys if (row := self.files.read(key))}
        for key, row in rows.items():
            self._keep(key, row, write=False)
        return rows

    def _keep(self, key: bytes, row: dict[str, Tensor], write: bool = True) -> None:
        size = sum(x.numel() * x.element_size() for x in row.values())
        if self.bytes + size <= self.max_bytes:
            self.store[key] = row
            self.bytes += size
            if self.files and write:
                self.files.write(key, row)
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


class _FeatureFiles:
    """One file per image, in a subfolder per backbone: its structure, outputs and weights."""

    def __init__(self, root: Path):
        self.root = root
        self.weights: str | None = None

    def use_weights_of(self, backbone: nn.Module) -> None:
        """Computes, once, what the weights are known by."""
        if self.weights is None:
            # strides and the like show in no weight
            about = f"{backbone!r} {sorted(backbone.output_shape())}"
            digest = hashlib.blake2b(about.encode(), digest_size=16)
            for name, x in backbone.state_dict().items():
                digest.update(f"{name} {tuple(x.shape)}".encode())
                digest.update(x.detach().cpu().contiguous().numpy().tobytes())
            self.weights = digest.hexdigest()
            (self.root / self.weights).mkdir(parents=True, exist_ok=True)

    def read(self, key: bytes) -> dict[str, Tensor] | None:
        """None where there is no file, or a broken one, which is then written anew."""
        try:
            return torch.load(self._path(key), weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
            return None

    def write(self, key: bytes, row: dict[str, Tensor]) -> None:
        partial = self._path(key).with_suffix(f".{os.getpid()}.partial")
        # a row is a view of its batch, which must not be written with it
        torch.save({name: x.clone() for name, x in row.items()}, partial)
        partial.replace(self._path(key))

    def _path(self, key: bytes) -> Path:
        return self.root / self.weights / f"{key.hex()}.pt"
