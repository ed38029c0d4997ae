"""The YOLO format: one txt file per image, with a data.yaml (ultralytics, Roboflow) or without.

format.py   the format class
files.py    data.yaml and the paths in it
search.py   finds images and label files without a data.yaml
classes.py  class names
labels.py   the label file of each image
rows.py     the rows of a label file
reader.py   reads a split
"""

from flowdet.data.custom.formats.yolo.format import YOLO

__all__ = ["YOLO"]
