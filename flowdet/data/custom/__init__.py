"""Custom datasets: registers a user's folder in VOC or COCO format by its path.

`DATASETS.PATH` names such a folder; docs/custom_datasets.md shows the accepted layouts.

    layout.py      recognizes the format of a folder and finds the files of each split
    voc.py         reads a split in VOC format
    coco.py        reads a split in COCO format
    dataset.py     picks the reader of a split and registers the splits with detectron2
    problems.py    how readers report errors in a dataset
    check.py       reads a whole dataset and lists all problems
    statistics.py  tables of classes, box sizes and objects per image

There is one reader per format. To add a format such as YOLO:

1. layout.py: add a `YOLOSplit` that holds the paths of a split, and recognize the format in
   `find_layout`.
2. yolo.py (new): add `read_yolo`, which reports problems and returns the dataset dicts and the
   `ClassList` of a split, as `read_voc` does.
3. dataset.py: call it for a `YOLOSplit` in `CustomDataset._read_split`.
"""

from flowdet.data.custom.dataset import CustomDataset, register_custom

__all__ = ["CustomDataset", "register_custom"]
