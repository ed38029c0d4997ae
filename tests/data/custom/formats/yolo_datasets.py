"""Writes small datasets in YOLO format for the tests."""

from tests.data.custom.example_datasets import write_image

YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
# boxes of 16x12 and 16x24 pixels in images of 64x48
CAT_ROW, DOG_ROW = "0 0.25 0.25 0.25 0.25", "1 0.75 0.5 0.25 0.5"
CAT_BOX, DOG_BOX = [8.0, 6.0, 24.0, 18.0], [40.0, 12.0, 56.0, 36.0]
CONTENT = {"train": ("a", "b"), "val": ("c", "d")}


def write_yolo(
    root,
    yaml=YAML,
    images="images/{split}/{name}.png",
    labels="labels/{split}/{name}.txt",
    rows=(CAT_ROW, DOG_ROW),
):
    """Writes two images with a cat and a dog for each split."""
    for split, names in CONTENT.items():
        for name in names:
            add_image(root / images.format(split=split, name=name))
            write_text(root / labels.format(split=split, name=name), *rows)
    if yaml:
        write_text(root / "data.yaml", yaml)
    return root


def write_text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def add_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path)
