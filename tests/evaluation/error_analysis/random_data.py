"""Objects, random or of the digits, and random detections of all error types around them.

Objects are dataset dicts, detections are `SavedDetections`.
"""

import numpy as np
from detectron2.structures import BoxMode

from flowdet.data.detection.digits import DigitBank, compose_scene
from flowdet.evaluation.saved_detections import SavedDetections


def saved(detections, dataset="hand", stability=None):
    """Detections [(xyxy box, class, score), ...] of every image id, as an evaluation saves them."""
    rows = [(i, *d) for i, of_image in enumerate(detections.values()) for d in of_image]
    return SavedDetections(
        dataset,
        list(detections),
        np.array([i for i, *_ in rows], dtype=np.int64),
        np.array([box for _, box, *_ in rows], dtype=np.float32).reshape(-1, 4),
        np.array([c for _, _, c, _ in rows], dtype=np.int64),
        np.array([s for *_, s in rows], dtype=np.float32),
        stability,
    )


def record(image_id, objects, flag="difficult"):
    """A dataset dict with objects (xyxy box, class) or (xyxy box, class, flag)."""
    annotations = [
        {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": c, flag: sum(rest)}
        for box, c, *rest in objects
    ]
    return {"image_id": image_id, "height": 100, "width": 100, "annotations": annotations}


def random_objects(rng, images=40, classes=3, ignored=0.15):
    """Objects (xyxy box, class, flag) of images, by image id."""
    made = {}
    for i in range(images):
        corners = rng.uniform(0, 60, (rng.integers(0, 6), 2)).round(2)
        sides = rng.uniform(10, 40, (len(corners), 2)).round(2)
        made[f"i{i:03}"] = [
            ([*corner, *(corner + side)], int(rng.integers(classes)), int(rng.random() < ignored))
            for corner, side in zip(corners, sides)
        ]
    return made


def digit_objects(rng, images=30):
    """The objects of scenes of the digits, as `random_objects`; none is ignored."""
    digits = DigitBank.load("test")
    scenes = [compose_scene(rng, digits) for _ in range(images)]
    return {
        f"i{i:03}": [(box.tolist(), int(c), 0) for box, c in zip(boxes, classes)]
        for i, (_, boxes, classes) in enumerate(scenes)
    }


def random_detections(rng, objects, classes=3):
    """Detections (xyxy box, class, score) near the objects and on the background."""
    made = {}
    for image_id, of_image in objects.items():
        made[image_id] = []
        for box, c, _ in of_image:
            for _ in range(rng.integers(0, 4)):
                # at most 4 pixels: every side stays positive
                shift = rng.normal(0, rng.choice([1, 4]), 4).clip(-4, 4)
                label = c if rng.random() < 0.7 else int(rng.integers(classes))
                made[image_id].append((np.array(box) + shift, label))
        corners = rng.uniform(0, 60, (rng.integers(0, 3), 2))
        made[image_id] += [([*c, *(c + 20)], int(rng.integers(classes))) for c in corners]
        made[image_id] = [
            ([round(float(x), 2) for x in box], c, round(float(rng.random()), 6))
            for box, c in made[image_id]
        ]
    return made
