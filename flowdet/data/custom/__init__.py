"""Custom datasets: reads a user's folder by its path, in the formats of annotation tools.

`DATASETS.PATH` names such a folder; docs/custom_datasets.md shows the accepted layouts.

    layout.py           recognizes the format of a folder and finds the files of each split
    formats/            one file per format: VOC, COCO, YOLO, LabelMe, CVAT, VoTT, csv, darknet
    raw.py              what a format's reader returns
    image_finder.py     finds the image files that annotations name
    image_headers.py    reads size and EXIF orientation of image files
    records.py          checks and repairs the raw content; makes detectron2's dataset dicts
    dataset.py          a dataset and its splits; registers them with detectron2
    evaluation_copy.py  writes the ground truth for COCO's evaluation
    findings.py         problems and repairs
    notes.py            facts that are allowed but may be unintended
    check.py            reads a whole dataset and lists everything
    clean.py            writes the repaired dataset
    statistics.py       tables of classes, box sizes and objects per image

docs/extending.md shows how to add a format.
"""

from flowdet.data.custom.dataset import CustomDataset, dataset_of, register_custom

__all__ = ["CustomDataset", "dataset_of", "register_custom"]
