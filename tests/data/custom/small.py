"""Small datasets, whole and broken, for the tests of own data."""

import json

import numpy as np
from PIL import Image

from flowdet.data.custom import CustomDataset

# width and height differ, so that mixing them up shows
SIZE = (48, 64)
CAT, DOG = ((2, 3, 30, 33), "cat", 0), ((40, 10, 60, 40), "dog", 0)
TRAIN = {"a": [CAT, DOG], "b": [CAT, DOG]}
VAL = {"c": [CAT], "d": [DOG, CAT]}


def write_coco(root, train=TRAIN, val=VAL, names=("cat", "dog")):
    """A dataset in COCO layout with the objects of the VOC one."""
    for split, images in (("train", train), ("val", val)):
        (root / split).mkdir(parents=True)
        data = {"info": {}, "images": [], "annotations": [], "categories": []}
        data["categories"] = [{"id": 3 * i + 2, "name": name} for i, name in enumerate(names)]
        for image_id, (stem, objects) in enumerate(images.items(), 1):
            write_image(root / split / f"{stem}.png")
            image = {"id": image_id, "file_name": f"{stem}.png", "height": 48, "width": 64}
            data["images"].append(image)
            for (x1, y1, x2, y2), name, _ in objects:
                data["annotations"].append(
                    {
                        "id": len(data["annotations"]) + 1,
                        "image_id": image_id,
                        "category_id": 3 * names.index(name) + 2,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                    }
                )
        (root / "annotations").mkdir(exist_ok=True)
        save(root, data, split)
    return root


def json_path(root, split="train"):
    return root / "annotations" / f"instances_{split}.json"


def load(root, split="train"):
    return json.loads(json_path(root, split).read_text())


def save(root, data, split="train"):
    json_path(root, split).write_text(json.dumps(data))


def write_image(path, size=SIZE):
    Image.fromarray(np.full((*size, 3), 90, dtype=np.uint8)).save(path)


def read_all(root):
    """Reads all splits as a training does; returns the dicts by split."""
    dataset = CustomDataset(root)
    return {split: dataset.read(split).records for split in dataset.layout.splits}


def objects(records):
    """What the dicts hold: (file's stem, [(class id, box), ...])."""
    return [
        (
            r["file_name"].rpartition("/")[2].rpartition(".")[0],
            [(a["category_id"], a["bbox"]) for a in r["annotations"]],
        )
        for r in records
    ]
