"""Generates the digits dataset: handwritten digits on textured backgrounds.

The digits are the 1,797 images of scikit-learn's digits dataset (8x8 gray values). Backgrounds,
colors, positions and light are random, with a fixed seed. Training and test scenes have no digit in
common.
`compose_scene` makes one scene, `make_digits` writes a whole dataset in VOC layout.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from flowdet.data.detection.voc import write_voc_annotation

__all__ = ["CLASS_NAMES", "SPLITS", "DigitBank", "compose_scene", "make_digits", "read_digits"]

CLASS_NAMES = tuple("0123456789")
SPLITS = ("train", "test")
GENERATOR_VERSION = 1  # increase it when a change of the code makes the same seed give other files

_VISIBLE = 0.4  # a pixel above this opacity is part of a stroke
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_DATASET_FILES = {"JPEGImages", "Annotations", "ImageSets", "manifest.json"}


@cache
def read_digits(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads scikit-learn's digits of split "train" (1,437) or "test" (360). The splits are fixed.

    Returns:
        images (float64 [N, 8, 8] in [0, 16]), labels (int64 [N], the digits 0 to 9) and their rows
        in scikit-learn's `load_digits` (int64 [N], ascending). Read-only: later calls share them.

    Raises:
        ValueError: `split` is neither "train" nor "test".
    """
    # scikit-learn takes a second to import, and few runs need it
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in SPLITS:
        raise ValueError(f"the digits have the splits {', '.join(SPLITS)}, not {split!r}")
    source = load_digits()
    rows = np.arange(len(source.target))
    parts = train_test_split(rows, test_size=0.2, random_state=0, stratify=source.target)
    indices = np.sort(parts[SPLITS.index(split)])
    arrays = source.images[indices], source.target[indices].astype(np.int64), indices
    for array in arrays:
        array.flags.writeable = False
    return arrays


@dataclass(frozen=True)
class DigitBank:
    """The N digits of a split as opacity maps.

    Attributes:
        glyphs: the opacity of each digit, float32 [h, w] in [0, 1], cropped to its strokes.
        labels: int64 [N], the digits 0 to 9.
        indices: int64 [N], their rows in scikit-learn's `load_digits`.
    """

    glyphs: tuple[np.ndarray, ...]
    labels: np.ndarray
    indices: np.ndarray

    @classmethod
    def load(cls, split: str) -> "DigitBank":
        """Loads the digits of split "train" (1,437) or "test" (360). The splits are fixed.

        Raises:
            ValueError: `split` is neither "train" nor "test".
        """
        images, labels, indices = read_digits(split)
        return cls(tuple(map(_smooth_glyph, images)), labels, indices)

    def __len__(self) -> int:
        return len(self.glyphs)


def compose_scene(
    rng: np.random.Generator,
    digits: DigitBank,
    image_size: int = 96,
    *,
    object_size: tuple[float, float] | None = None,
    max_objects: int = 6,
    max_overlap: float = 0.1,
    min_contrast: float = 0.22,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Composes a scene of 1 to `max_objects` digits on a textured background.

    Args:
        rng: the source of all random choices; the same state gives the same scene.
        digits: the digits to choose from.
        image_size: height and width of the image, in pixels.
        object_size: smallest and largest length of a digit's longer side, in pixels; None is
            14/96 to 40/96 of the image.
        max_objects: the maximum number of digits. A digit is left out if it finds no free position.
        max_overlap: largest intersection of two boxes, as a share of the smaller box.
        min_contrast: smallest difference between the luminance of a digit and the mean luminance
            of its background, both in [0, 1].

    Returns:
        The image, uint8 RGB [H, W, 3]; the boxes, float32 [N, 4], absolute xyxy in pixels, tight
        around the visible strokes, with exclusive x2 and y2; and the classes, int64 [N], N >= 1.

    Raises:
        ValueError: the digits do not fit into the image.
    """
    low, high = object_size or (image_size * 14 / 96, image_size * 40 / 96)
    if not 4 <= low <= high <= image_size:
        raise ValueError(
            f"digits of {low:g} to {high:g} pixels do not fit into an image of {image_size}: sizes "
            "must be at least 4, at most the image size, and in ascending order"
        )
    canvas = _background(rng, image_size)
    # the object that each pixel shows, -1 for the background
    owner = np.full((image_size, image_size), -1, dtype=np.int64)
    boxes: list[tuple[int, int, int, int]] = []
    classes: list[int] = []
    for _ in range(rng.integers(1, max_objects + 1)):
        index = rng.integers(len(digits))
        alpha = _resize_glyph(rng, digits.glyphs[index], low, high)
        box = _find_free_box(rng, alpha.shape, image_size, boxes, max_overlap)
        if box is None:
            continue  # the scene is full: it has one object fewer
        x1, y1, x2, y2 = box
        _paint(rng, canvas[y1:y2, x1:x2], alpha, min_contrast)
        owner[y1:y2, x1:x2][alpha > _VISIBLE] = len(boxes)
        boxes.append(box)
        classes.append(int(digits.labels[index]))
    visible = [_visible_box(owner, i, box) for i, box in enumerate(boxes)]
    image = _light_and_grain(rng, canvas)
    return image, np.array(visible, dtype=np.float32), np.array(classes, dtype=np.int64)


def make_digits(
    output: str | Path,
    *,
    num_train: int = 2000,
    num_test: int = 400,
    image_size: int = 96,
    seed: int = 0,
    force: bool = False,
) -> bool:
    """Writes the dataset in VOC layout, with its settings in manifest.json.

    Image i of a split depends on `seed` and `image_size` only, not on the number of images. The
    folder is renamed when it is complete: an interrupted call leaves nothing.

    Args:
        output: the folder to write.
        num_train: number of training images.
        num_test: number of test images.
        image_size: height and width of the images, in pixels.
        seed: random seed of the scenes.
        force: whether another digits dataset in `output` is replaced. Other files never are.

    Returns:
        Whether the dataset was written; False if `output` contains exactly this dataset already.

    Raises:
        FileExistsError: `output` contains something else.
        ValueError: a setting is too small.
    """
    output = Path(output)
    settings = {
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "image_size": image_size,
        "train": num_train,
        "test": num_test,
    }
    _check_settings(settings)
    if _exists(output, settings, force):
        return False
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".digits-", dir=output.parent) as scratch:
        new = Path(scratch) / "new"
        for split in SPLITS:
            _write_split(new, split, settings)
        manifest = {**settings, "sha256": _digest(new)}
        (new / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if output.exists():
            output.rename(Path(scratch) / "old")
        new.rename(output)
    return True


def _smooth_glyph(cell: np.ndarray) -> np.ndarray:
    """Makes the opacity map of an 8x8 digit: enlarges it, sharpens it, crops it to the strokes."""
    padded = np.pad(cell.astype(np.float32) / 16, 1)
    large = cv2.resize(padded, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    alpha = np.clip((large - 0.32) / 0.4, 0, 1)
    x, y, w, h = cv2.boundingRect((alpha > _VISIBLE).astype(np.uint8))
    return np.ascontiguousarray(alpha[y : y + h, x : x + w])


def _resize_glyph(
    rng: np.random.Generator, glyph: np.ndarray, low: float, high: float
) -> np.ndarray:
    """Resizes a glyph so that its longer side is in [low, high] pixels, with a random stretch."""
    h, w = glyph.shape
    scale = rng.uniform(low, high) / max(h, w)
    stretch = rng.uniform(0.85, 1.0)
    # one side is shrunk, not enlarged: the longer side stays at most `high`
    sx, sy = (scale * stretch, scale) if rng.random() < 0.5 else (scale, scale * stretch)
    size = (max(round(w * sx), 2), max(round(h * sy), 2))
    shrinks = scale < 1
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(glyph, size, interpolation=method)


def _find_free_box(
    rng: np.random.Generator,
    shape: tuple[int, int],
    image_size: int,
    boxes: list[tuple[int, int, int, int]],
    max_overlap: float,
) -> tuple[int, int, int, int] | None:
    """Chooses a random box (xyxy) for a patch [h, w] that overlaps others by at most `max_overlap`.

    Returns None if none of 20 random positions is free.
    """
    h, w = shape
    corners = rng.random((20, 2)) * (image_size - w + 1, image_size - h + 1)
    for x, y in corners.astype(int).tolist():
        box = (x, y, x + w, y + h)
        if all(_overlap(box, other) <= max_overlap for other in boxes):
            return box
    return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Computes the intersection of two xyxy boxes as a share of the smaller box."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _visible_box(
    owner: np.ndarray, index: int, box: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """Returns the tight xyxy box of the pixels of object `index` that are not covered."""
    x1, y1, x2, y2 = box
    x, y, w, h = cv2.boundingRect((owner[y1:y2, x1:x2] == index).astype(np.uint8))
    return x1 + x, y1 + y, x1 + x + w, y1 + y + h


def _paint(
    rng: np.random.Generator, background: np.ndarray, alpha: np.ndarray, min_contrast: float
) -> None:
    """Blends a digit in a random color into `background` [h, w, 3], in place."""
    luminance = background @ _LUMA
    mean, spread = float(luminance.mean()), float(luminance.std())
    # on a textured background the strokes are visible only with a larger difference
    least = min_contrast + spread
    up, down = 1 - mean, mean
    brighter = up > down if min(up, down) < least else rng.random() < 0.5
    room = up if brighter else down
    gap = rng.uniform(min(least, room), max(min(0.55, 0.85 * room), least))
    color = _tint(rng, min(max(mean + (gap if brighter else -gap), 0.0), 1.0))
    background += alpha[..., None] * (color - background)


def _tint(rng: np.random.Generator, luminance: float) -> np.ndarray:
    """Draws an RGB color [3] in [0, 1] with the given luminance."""
    chroma = rng.uniform(-0.5, 0.5, size=3).astype(np.float32)
    chroma -= chroma @ _LUMA
    room = np.where(chroma > 0, 1 - luminance, luminance) / np.maximum(np.abs(chroma), 1e-6)
    return luminance + min(1.0, float(room.min())) * chroma


def _background(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """Draws a colored mixture of two texture crops, float32 [H, W, 3] in [0, 1]."""
    textures = _texture_bank(image_size)
    share = np.float32(rng.random())
    pattern = share * _random_crop(rng, textures, image_size)
    pattern += (1 - share) * _random_crop(rng, textures, image_size)
    middle, amplitude = rng.uniform(0.2, 0.8), rng.uniform(0.04, 0.2)
    dark, light = _tint(rng, middle - amplitude), _tint(rng, middle + amplitude)
    return dark + (light - dark) * pattern[..., None]


def _random_crop(rng: np.random.Generator, textures: np.ndarray, size: int) -> np.ndarray:
    """Draws a crop [size, size] of a random texture, randomly transposed and flipped."""
    index, x, y, flip = rng.integers((len(textures), size, size, 4)).tolist()
    crop = textures[index, y : y + size, x : x + size]
    crop = crop.T if flip & 1 else crop
    return crop[::-1] if flip & 2 else crop


def _light_and_grain(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Adds uneven light and sensor noise to a scene in [0, 1]; returns uint8 [H, W, 3]."""
    size = len(canvas)
    slope_x, slope_y, gain, grain = rng.uniform((-0.15, -0.15, 0.85, 0), (0.15, 0.15, 1.15, 0.04))
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    light = np.float32(gain) + np.float32(slope_x) * ramp + np.float32(slope_y) * ramp[:, None]
    noise = rng.standard_normal((size, size), dtype=np.float32) * np.float32(grain)
    lit = canvas * light[..., None] + noise[..., None]
    return (lit * 255).clip(0, 255).astype(np.uint8)


@cache
def _texture_bank(image_size: int) -> np.ndarray:
    """Generates gray textures [64, 2 * size, 2 * size] in [0, 1], the same in every call."""
    rng = np.random.default_rng(1797)
    makers = (_noise_texture, _noise_texture, _stripe_texture, _gradient_texture)
    textures = [makers[i % len(makers)](rng, 2 * image_size) for i in range(64)]
    low, high = (np.quantile(textures, q, axis=(1, 2), keepdims=True) for q in (0.01, 0.99))
    return np.clip((textures - low) / (high - low), 0, 1).astype(np.float32)


def _noise_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws a texture [size, size]: the sum of smooth noise of several grain sizes."""
    total = np.zeros((size, size))
    for cells in (4, 8, 16, 32, 64):
        coarse = rng.standard_normal((cells, cells))
        total += rng.random() * cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return total


def _stripe_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws a texture [size, size] of wavy stripes in a random direction, soft or hard."""
    waves = rng.uniform(0.2, 2.0) * _noise_texture(rng, size)
    phase = 2 * np.pi * rng.uniform(6, 24) * _ramp(rng, size) + waves
    return np.tanh(rng.uniform(0.5, 4.0) * np.sin(phase))


def _gradient_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws a texture [size, size]: a ramp in a random direction with a little noise."""
    return _ramp(rng, size) + 0.1 * _noise_texture(rng, size)


def _ramp(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws a linear ramp [size, size] in a random direction that rises by 1 to 1.4 in all."""
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-0.5, 0.5, size)
    return np.cos(angle) * axis + np.sin(angle) * axis[:, None]


def _check_settings(settings: dict) -> None:
    for key, least in (("train", 1), ("test", 1), ("image_size", 32), ("seed", 0)):
        if settings[key] < least:
            raise ValueError(f"{key} is {settings[key]}; it must be at least {least}")


def _exists(output: Path, settings: dict, force: bool) -> bool:
    """Returns whether `output` contains exactly this dataset.

    Raises:
        FileExistsError: it contains something else that may not be replaced.
    """
    if not output.exists():
        return False
    if not output.is_dir():
        raise FileExistsError(f"{output} is a file: give a folder to write the dataset to")
    foreign = sorted(p.name for p in output.iterdir() if p.name not in _DATASET_FILES)
    if foreign:
        raise FileExistsError(
            f"{output} contains files of another kind ({', '.join(foreign[:3])}): choose another "
            "folder"
        )
    if force or not any(output.iterdir()):
        return False
    difference = _difference(output, settings)
    if difference:
        raise FileExistsError(
            f"{output} contains another digits dataset: {difference}. "
            "Choose another folder, or replace the dataset with --force"
        )
    return True


def _difference(output: Path, settings: dict) -> str:
    """Describes how the dataset in `output` differs from `settings`; "" if it does not."""
    try:
        manifest = dict(json.loads((output / "manifest.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return "its manifest.json is missing or unreadable"
    differences = [
        f"{key} is {manifest.get(key)}, not {value}"
        for key, value in settings.items()
        if manifest.get(key) != value
    ]
    if not differences and manifest.get("sha256") != _digest(output):
        differences = ["its files were changed after they were written"]
    return "; ".join(differences)


def _write_split(root: Path, split: str, settings: dict) -> None:
    """Writes the images, annotations and list of a split to `root`."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    digits = DigitBank.load(split)
    names = [f"{split}_{i:06d}" for i in range(settings[split])]
    for i, name in enumerate(tqdm(names, desc=f"digits {split}", unit="image")):
        rng = np.random.default_rng([settings["seed"], SPLITS.index(split), i])
        image, boxes, classes = compose_scene(rng, digits, settings["image_size"])
        file = root / "JPEGImages" / f"{name}.jpg"
        if not cv2.imwrite(str(file), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise OSError(f"cannot write {file}")
        labels = [CLASS_NAMES[c] for c in classes]
        annotation = root / "Annotations" / f"{name}.xml"
        write_voc_annotation(annotation, file.name, image.shape[:2], boxes, labels)
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    listing.write_text("\n".join(names) + "\n", encoding="utf-8")


def _digest(root: Path) -> str:
    """Computes one SHA-256 of the names and bytes of all files in `root` except the manifest."""
    total = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.name != "manifest.json"):
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
