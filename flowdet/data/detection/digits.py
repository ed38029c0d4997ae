"""The digits dataset: real handwritten digits on textured backgrounds, generated in seconds.

The digits are scikit-learn's 1,797 handwritten ones (8x8 grey values); everything else
(backgrounds, tints, places, light) is drawn from a seeded generator. Training and test scenes
never share a digit. `compose_scene` makes one scene, `make_digits` writes a whole dataset in
VOC layout.
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

__all__ = ["CLASS_NAMES", "SPLITS", "DigitBank", "compose_scene", "make_digits"]

CLASS_NAMES = tuple("0123456789")
SPLITS = ("train", "test")
GENERATOR_VERSION = 1  # raise when the same seed would give other files

_VISIBLE = 0.4  # opacity from which on a pixel counts as part of a stroke
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_OWN_ENTRIES = {"JPEGImages", "Annotations", "ImageSets", "manifest.json"}


@dataclass(frozen=True)
class DigitBank:
    """The digits of one split, ready to paste.

    glyphs: one float32 opacity map [h, w] in [0, 1] per digit, cropped to its strokes.
    labels: int64 [N], the digit shown. indices: int64 [N], its row in `load_digits`.
    """

    glyphs: tuple[np.ndarray, ...]
    labels: np.ndarray
    indices: np.ndarray

    @classmethod
    def load(cls, split: str) -> "DigitBank":
        """The digits of split "train" (1,437) or "test" (360); always the same division.

        Raises ValueError for another split.
        """
        # scikit-learn takes a second to import, and few runs need it
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        if split not in SPLITS:
            raise ValueError(f"The digits have the splits {', '.join(SPLITS)}, not {split!r}.")
        source = load_digits()
        rows = np.arange(len(source.target))
        parts = train_test_split(rows, test_size=0.2, random_state=0, stratify=source.target)
        indices = np.sort(parts[SPLITS.index(split)])
        glyphs = tuple(_smooth_glyph(source.images[i]) for i in indices)
        return cls(glyphs, source.target[indices].astype(np.int64), indices)

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
    """One scene with 1 to `max_objects` digits.

    object_size: least and greatest length in pixels of a digit's longer side; by default 14/96
    to 40/96 of the image. max_overlap: share of the smaller of two boxes that may lie under
    the other. min_contrast: least difference in luminance (0..1) of a digit from its ground.

    Returns image [H, W, 3] uint8 RGB, boxes [N, 4] float32 in absolute xyxy pixels, tight
    around the visible strokes (x2, y2 exclusive), and classes [N] int64, N >= 1.
    Raises ValueError when the digits do not fit into the image.
    """
    low, high = object_size or (image_size * 14 / 96, image_size * 40 / 96)
    if not 4 <= low <= high <= image_size:
        raise ValueError(f"Digits of {low:g} to {high:g} px do not fit: 4 <= low <= high <= size.")
    canvas = _background(rng, image_size)
    owner = np.full((image_size, image_size), -1, dtype=np.int64)
    places: list[tuple[int, int, int, int]] = []
    classes: list[int] = []
    for _ in range(rng.integers(1, max_objects + 1)):
        index = rng.integers(len(digits))
        alpha = _resize_glyph(rng, digits.glyphs[index], low, high)
        place = _find_place(rng, alpha.shape, image_size, places, max_overlap)
        if place is None:
            continue  # the scene is full: it gets an object less
        x1, y1, x2, y2 = place
        _paint(rng, canvas[y1:y2, x1:x2], alpha, min_contrast)
        owner[y1:y2, x1:x2][alpha > _VISIBLE] = len(places)
        places.append(place)
        classes.append(int(digits.labels[index]))
    boxes = [_visible_box(owner, i, place) for i, place in enumerate(places)]
    image = _light_and_grain(rng, canvas)
    return image, np.array(boxes, dtype=np.float32), np.array(classes, dtype=np.int64)


def make_digits(
    output: str | Path,
    *,
    num_train: int = 2000,
    num_test: int = 400,
    image_size: int = 96,
    seed: int = 0,
    force: bool = False,
) -> bool:
    """Write the dataset to folder `output` in VOC layout, with a manifest.json.

    Image i of a split depends on `seed` and `image_size` only, not on the counts. The files
    appear all at once or not at all. Returns False when exactly this dataset is there already.
    Raises FileExistsError when `output` holds something else: with `force` another digits
    dataset is replaced, foreign files never are.
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
    if _is_there(output, settings, force):
        return False
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".digits-", dir=output.parent) as scratch:
        fresh = Path(scratch) / "new"
        for split in SPLITS:
            _write_split(fresh, split, settings)
        manifest = {**settings, "sha256": _digest(fresh)}
        (fresh / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        if output.exists():
            output.rename(Path(scratch) / "old")
        fresh.rename(output)
    return True


def _smooth_glyph(cell: np.ndarray) -> np.ndarray:
    """The opacity map of one 8x8 digit: enlarged, its edges sharpened, cropped to the strokes."""
    padded = np.pad(cell.astype(np.float32) / 16, 1)
    large = cv2.resize(padded, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    alpha = np.clip((large - 0.32) / 0.4, 0, 1)
    x, y, w, h = cv2.boundingRect((alpha > _VISIBLE).astype(np.uint8))
    return np.ascontiguousarray(alpha[y : y + h, x : x + w])


def _resize_glyph(
    rng: np.random.Generator, glyph: np.ndarray, low: float, high: float
) -> np.ndarray:
    """The glyph with a random length in [low, high] of its longer side, slightly stretched."""
    h, w = glyph.shape
    scale = rng.uniform(low, high) / max(h, w)
    stretch = rng.uniform(0.85, 1.0)
    # Shrinking the longer side or the shorter one: both keep the longer side within `high`.
    sx, sy = (scale * stretch, scale) if rng.random() < 0.5 else (scale, scale * stretch)
    size = (max(round(w * sx), 2), max(round(h * sy), 2))
    shrinks = scale < 1
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(glyph, size, interpolation=method)


def _find_place(
    rng: np.random.Generator,
    shape: tuple[int, int],
    image_size: int,
    places: list[tuple[int, int, int, int]],
    max_overlap: float,
) -> tuple[int, int, int, int] | None:
    """A random xyxy place for a patch [h, w] that hardly overlaps the others, or None."""
    h, w = shape
    corners = rng.random((20, 2)) * (image_size - w + 1, image_size - h + 1)
    for x, y in corners.astype(int).tolist():
        place = (x, y, x + w, y + h)
        if all(_overlap(place, other) <= max_overlap for other in places):
            return place
    return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """The intersection of two xyxy boxes as a share of the smaller one."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _visible_box(
    owner: np.ndarray, index: int, place: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """The tight xyxy box of the pixels of object `index` that no later object has covered."""
    x1, y1, x2, y2 = place
    x, y, w, h = cv2.boundingRect((owner[y1:y2, x1:x2] == index).astype(np.uint8))
    return x1 + x, y1 + y, x1 + x + w, y1 + y + h


def _paint(
    rng: np.random.Generator, ground: np.ndarray, alpha: np.ndarray, min_contrast: float
) -> None:
    """Blend a digit in a random colour into `ground` [h, w, 3], in place."""
    luminance = ground @ _LUMA
    mean, spread = float(luminance.mean()), float(luminance.std())
    # A restless ground asks for a greater difference, or the strokes drown in it.
    least = min_contrast + spread
    up, down = 1 - mean, mean
    brighter = up > down if min(up, down) < least else rng.random() < 0.5
    room = up if brighter else down
    gap = rng.uniform(min(least, room), max(min(0.55, 0.85 * room), least))
    colour = _tint(rng, min(max(mean + (gap if brighter else -gap), 0.0), 1.0))
    ground += alpha[..., None] * (colour - ground)


def _tint(rng: np.random.Generator, luminance: float) -> np.ndarray:
    """A random RGB colour [3] in 0..1 with the given luminance."""
    chroma = rng.uniform(-0.5, 0.5, size=3).astype(np.float32)
    chroma -= chroma @ _LUMA
    room = np.where(chroma > 0, 1 - luminance, luminance) / np.maximum(np.abs(chroma), 1e-6)
    return luminance + min(1.0, float(room.min())) * chroma


def _background(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """A tinted mixture of two random texture crops: float32 [H, W, 3] in 0..1."""
    textures = _texture_bank(image_size)
    share = np.float32(rng.random())
    pattern = share * _random_crop(rng, textures, image_size)
    pattern += (1 - share) * _random_crop(rng, textures, image_size)
    middle, amplitude = rng.uniform(0.2, 0.8), rng.uniform(0.04, 0.2)
    dark, light = _tint(rng, middle - amplitude), _tint(rng, middle + amplitude)
    return dark + (light - dark) * pattern[..., None]


def _random_crop(rng: np.random.Generator, textures: np.ndarray, size: int) -> np.ndarray:
    """A randomly turned and flipped crop [size, size] of a random texture."""
    index, x, y, flip = rng.integers((len(textures), size, size, 4)).tolist()
    crop = textures[index, y : y + size, x : x + size]
    crop = crop.T if flip & 1 else crop
    return crop[::-1] if flip & 2 else crop


def _light_and_grain(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Uneven light and sensor noise over the finished scene; returns uint8 [H, W, 3]."""
    size = len(canvas)
    slope_x, slope_y, gain, grain = rng.uniform((-0.15, -0.15, 0.85, 0), (0.15, 0.15, 1.15, 0.04))
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    light = np.float32(gain) + np.float32(slope_x) * ramp + np.float32(slope_y) * ramp[:, None]
    noise = rng.standard_normal((size, size), dtype=np.float32) * np.float32(grain)
    lit = canvas * light[..., None] + noise[..., None]
    return (lit * 255).clip(0, 255).astype(np.uint8)


@cache
def _texture_bank(image_size: int) -> np.ndarray:
    """64 grey textures [64, 2 * size, 2 * size] in 0..1, the same in every process."""
    rng = np.random.default_rng(1797)
    makers = (_noise_texture, _noise_texture, _stripe_texture, _gradient_texture)
    textures = [makers[i % len(makers)](rng, 2 * image_size) for i in range(64)]
    low, high = (np.quantile(textures, q, axis=(1, 2), keepdims=True) for q in (0.01, 0.99))
    return np.clip((textures - low) / (high - low), 0, 1).astype(np.float32)


def _noise_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smooth noise of several grain sizes, added up."""
    total = np.zeros((size, size))
    for cells in (4, 8, 16, 32, 64):
        coarse = rng.standard_normal((cells, cells))
        total += rng.random() * cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return total


def _stripe_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Wavy stripes in a random direction, soft or hard."""
    waves = rng.uniform(0.2, 2.0) * _noise_texture(rng, size)
    phase = 2 * np.pi * rng.uniform(6, 24) * _ramp(rng, size) + waves
    return np.tanh(rng.uniform(0.5, 4.0) * np.sin(phase))


def _gradient_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A ramp in a random direction with a little noise."""
    return _ramp(rng, size) + 0.1 * _noise_texture(rng, size)


def _ramp(rng: np.random.Generator, size: int) -> np.ndarray:
    """A linear ramp [size, size] in a random direction, about 1 from edge to edge."""
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-0.5, 0.5, size)
    return np.cos(angle) * axis + np.sin(angle) * axis[:, None]


def _check_settings(settings: dict) -> None:
    for key, least in (("train", 1), ("test", 1), ("image_size", 32), ("seed", 0)):
        if settings[key] < least:
            raise ValueError(f"{key} is {settings[key]}; it must be at least {least}.")


def _is_there(output: Path, settings: dict, force: bool) -> bool:
    """Whether `output` holds exactly this dataset; raises unless it may be (over)written."""
    if not output.exists():
        return False
    if not output.is_dir():
        raise FileExistsError(f"{output} is a file; give a folder to write the dataset to.")
    foreign = sorted(p.name for p in output.iterdir() if p.name not in _OWN_ENTRIES)
    if foreign:
        raise FileExistsError(
            f"{output} holds files that are not of this dataset ({', '.join(foreign[:3])}); "
            "choose another folder."
        )
    if force or not any(output.iterdir()):
        return False
    difference = _difference(output, settings)
    if difference:
        raise FileExistsError(
            f"{output} holds another digits dataset: {difference}. "
            "Choose another folder, or replace it with --force."
        )
    return True


def _difference(output: Path, settings: dict) -> str:
    """What sets the dataset in `output` apart from `settings`; empty when nothing does."""
    try:
        found = dict(json.loads((output / "manifest.json").read_text()))
    except (OSError, ValueError, TypeError):
        return "its manifest.json is missing or unreadable"
    wrong = [f"{k} is {found.get(k)}, not {v}" for k, v in settings.items() if found.get(k) != v]
    if not wrong and found.get("sha256") != _digest(output):
        wrong = ["its files were changed since they were written"]
    return "; ".join(wrong)


def _write_split(root: Path, split: str, settings: dict) -> None:
    """Write the images, annotations and list of one split below `root`."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    digits = DigitBank.load(split)
    names = [f"{split}_{i:06d}" for i in range(settings[split])]
    for i, name in enumerate(tqdm(names, desc=f"digits {split}", unit="image")):
        rng = np.random.default_rng([settings["seed"], SPLITS.index(split), i])
        image, boxes, classes = compose_scene(rng, digits, settings["image_size"])
        picture = root / "JPEGImages" / f"{name}.jpg"
        if not cv2.imwrite(str(picture), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise OSError(f"Could not write {picture}.")
        labels = [CLASS_NAMES[c] for c in classes]
        annotation = root / "Annotations" / f"{name}.xml"
        write_voc_annotation(annotation, picture.name, image.shape[:2], boxes, labels)
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    listing.write_text("\n".join(names) + "\n")


def _digest(root: Path) -> str:
    """One sha256 over the names and bytes of all files below `root` but the manifest."""
    total = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.name != "manifest.json"):
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
