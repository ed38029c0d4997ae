"""Features of a frozen backbone, computed once per distinct image."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from detectron2.layers import ShapeSpec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from flowdet.temporary_file import temporary_file
from flowdet.tensor_checksum import tensor_checksum

# the key of the checksum in the metadata of a file
_CHECKSUM = "checksum"


class FeatureCache:
    """Keeps the feature maps of a frozen backbone in main memory, in float16.

    The key of an entry is a hash of the pixels after augmentation. A flipped image is another
    entry, so the cache is correct for every augmentation. It saves time for augmentations with few
    outcomes (none, or flips).

    Args:
        max_gib: memory limit in GiB. Once it is reached, the features of new images are computed
            every time.
        folder: folder where the features are also written, for later runs on the same images and
            weights; "" for none.
    """

    def __init__(self, max_gib: float, folder: str = ""):
        self.max_gib = max_gib
        self.max_bytes = int(max_gib * 2**30)
        self.bytes = 0
        self.store: dict[bytes, dict[str, Tensor]] = {}
        self.files = _FeatureFiles(Path(folder)) if folder else None

    def __deepcopy__(self, memo: dict) -> FeatureCache:
        """Returns an empty cache, because a copied model may get other weights."""
        return FeatureCache(self.max_gib, str(self.files.root) if self.files else "")

    def clear(self) -> None:
        """Deletes all features in memory; call it when the backbone's weights change."""
        self.bytes = 0
        self.store.clear()
        if self.files:
            self.files.weights = None

    @staticmethod
    def check(backbone: nn.Module) -> None:
        """Checks that a backbone can be cached.

        Raises:
            ValueError: the backbone is trained, or its output depends on the batch.
        """
        trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
        norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if trained or norms:
            raise ValueError(
                "MODEL.FLOW_DET.FEATURE_CACHE_GIB needs a frozen backbone, but "
                f"{trained[0] if trained else 'its batch normalization'} is trained: set "
                "MODEL.BACKBONE.FREEZE_AT and MODEL.RESNETS.NORM FrozenBN"
            )

    @torch.no_grad()
    def __call__(self, backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """Returns the output of `backbone(images)`, rounded to float16, in the dtype of the images.

        Args:
            backbone: the frozen backbone.
            images: [B, C, H, W].

        Raises:
            ValueError: a value is too large for float16.
            OSError: a file cannot be written.
        """
        keys = [_key(image) for image in images]
        missing = [key for key in keys if key not in self.store]
        rows = self._read(backbone, missing, tuple(images.shape[-2:]))
        new = {k: i for i, k in enumerate(keys) if k not in self.store and k not in rows}
        if new:
            computed = backbone(images[list(new.values())])
            for i, key in enumerate(new):
                rows[key] = {name: x[i].half().cpu() for name, x in computed.items()}
                _check_finite(rows[key])
                self._keep(key, rows[key])
        rows_of_batch = [rows.get(key) or self.store[key] for key in keys]
        return {
            name: torch.stack([row[name] for row in rows_of_batch]).to(images.device, images.dtype)
            for name in rows_of_batch[0]
        }

    def _read(
        self, backbone: nn.Module, keys: list[bytes], size: tuple[int, int]
    ) -> dict[bytes, dict[str, Tensor]]:
        """Reads the features of images of one size (height, width) from the folder, and keeps them
        in memory if they fit."""
        if not self.files:
            return {}
        self.files.use_weights_of(backbone)
        rows = {key: row for key in keys if (row := self.files.read(key, size))}
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
                "MODEL.FLOW_DET.FEATURE_CACHE_GIB to cache more",
                len(self.store),
            )
            # this warns only once; the entries stay in use
            self.max_bytes = 0


def _check_finite(row: dict[str, Tensor]) -> None:
    if not all(bool(x.isfinite().all()) for x in row.values()):
        raise ValueError(
            "features of the backbone are too large for float16, in which the cache keeps them: "
            "set MODEL.FLOW_DET.FEATURE_CACHE_GIB 0"
        )


def _key(image: Tensor) -> bytes:
    """Returns the key of an image: a hash of its shape and pixels."""
    digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
    digest.update(image.cpu().numpy().tobytes())
    return digest.digest()


class _FeatureFiles:
    """Files of features, one per image, in a subfolder per backbone.

    The name of the subfolder is a hash of the backbone's structure, outputs and weights.
    """

    def __init__(self, root: Path):
        self.root = root
        self.weights: str | None = None
        self._outputs: dict[str, ShapeSpec] = {}

    def use_weights_of(self, backbone: nn.Module) -> None:
        """Computes the hash of the backbone, once, and makes its subfolder."""
        if self.weights is None:
            # the weights do not contain strides and similar settings
            self._outputs = backbone.output_shape()
            structure = f"{backbone!r} {sorted(self._outputs)}"
            digest = hashlib.blake2b(structure.encode(), digest_size=16)
            for name, x in backbone.state_dict().items():
                digest.update(f"{name} {tuple(x.shape)}".encode())
                digest.update(x.detach().cpu().contiguous().numpy().tobytes())
            self.weights = digest.hexdigest()
            with _named_errors(self.root / self.weights):
                (self.root / self.weights).mkdir(parents=True, exist_ok=True)

    def read(self, key: bytes, size: tuple[int, int]) -> dict[str, Tensor] | None:
        """Returns the features of an image of a size (height, width); None if no undamaged file has
        outputs that the backbone can have for it."""
        try:
            with safe_open(self._path(key), framework="pt") as file:
                checksum = (file.metadata() or {}).get(_CHECKSUM)
                row = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        # the key too: a file of another image may have got this name
        if checksum != tensor_checksum(row, key.hex()):
            return None
        fits = row.keys() == self._outputs.keys() and all(
            _is_output(x, self._outputs[name], size) for name, x in row.items()
        )
        return row if fits else None

    def write(self, key: bytes, row: dict[str, Tensor]) -> None:
        tensors = {name: x.contiguous() for name, x in row.items()}
        metadata = {_CHECKSUM: tensor_checksum(tensors, key.hex())}
        with _named_errors(self._path(key)), temporary_file(self._path(key)) as temporary:
            save_file(tensors, temporary, metadata)

    def _path(self, key: bytes) -> Path:
        return self.root / self.weights / f"{key.hex()}.safetensors"


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Replaces errors of writing, such as that of a full disk, by one that names the key."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"{path} cannot be written: {reason}. Set MODEL.FLOW_DET.FEATURE_CACHE_DIR to another "
            'folder, or to "" for none'
        ) from error


def _is_output(x: Tensor, output: ShapeSpec, size: tuple[int, int]) -> bool:
    """Whether x can be the stored output of a backbone for an image of a size (height, width)."""
    if x.dtype != torch.float16 or x.dim() != 3 or len(x) != output.channels:
        return False
    if output.stride is None:
        return True
    # a backbone rounds the size up or down, or loses the border
    return all(abs(cells - pixels / output.stride) <= 1 for cells, pixels in zip(x.shape[1:], size))
