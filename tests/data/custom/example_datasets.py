"""Writes and reads the small custom datasets of the tests."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from flowdet.data.custom import CustomDataset
from flowdet.data.custom.check import check_dataset

# height and width differ, so that exchanging them fails a test
SIZE = (48, 64)
CAT, DOG = ((2, 3, 30, 33), "cat", 0), ((40, 10, 60, 40), "dog", 0)
TRAIN = {"a": [CAT, DOG], "b": [CAT, DOG]}
VAL = {"c": [CAT], "d": [DOG, CAT]}


def write_coco(root, train=TRAIN, val=VAL, names=("cat", "dog")):
    """Writes the objects of the VOC dataset in COCO layout; the category ids are 2 and 5."""
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
        save_coco(root, data, split)
    return root


def coco_file(root, split="train"):
    return root / "annotations" / f"instances_{split}.json"


def load_coco(root, split="train"):
    return json.loads(coco_file(root, split).read_text())


def save_coco(root, data, split="train"):
    coco_file(root, split).write_text(json.dumps(data))


def write_image(path, size=SIZE):
    """Writes a gray image of (height, width)."""
    Image.fromarray(np.full((*size, 3), 90, dtype=np.uint8)).save(path)


def read_all(root):
    """Reads all splits as a training does; returns the dataset dicts by split."""
    dataset = CustomDataset(root)
    return {split: dataset.read(split).records for split in dataset.layout.splits}


def boxes_of(records):
    """Returns (stem of the file, [(class index, box), ...]) for every dataset dict."""
    return [
        (
            r["file_name"].rpartition("/")[2].rpartition(".")[0],
            [(a["category_id"], a["bbox"]) for a in r["annotations"]],
        )
        for r in records
    ]


def assert_first_problem(root, message, num_problems=1):
    """A training raises the first of the problems that a check lists, in one line."""
    with pytest.raises(ValueError) as caught:
        read_all(root)
    text, hint = str(caught.value).split(" (tools/check_data.py")
    assert hint.startswith(f" --data {root} lists all problems")
    assert re.search(message, text) and "\n" not in text
    problems = check_dataset(root).problems
    assert text == str(problems[0])
    assert len(problems) == num_problems, problems
