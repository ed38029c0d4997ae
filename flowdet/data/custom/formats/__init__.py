"""The formats of annotations that flowdet reads: one file per format.

    base.py     base class, registry and helpers of all formats
    voc.py      PASCAL VOC: one xml file per image
    coco.py     COCO: one json file per split, also as Roboflow, CVAT and Label Studio write it
    yolo.py     YOLO: one txt file per image, with a data.yaml (ultralytics, Roboflow) or without
    darknet.py  darknet: obj.data, obj.names and lists of images
    yolo_*.py   what yolo.py and darknet.py share: data files, class names, label files, rows
    labelme.py  LabelMe: one json file per image
    cvat.py     CVAT for images: one xml file for all images
    vott.py     VoTT: one json file for all images
    csv_file.py csv: one line per box

To add a format, write a class in a module of your own, name the module in `IMPORTS`, and register
it (docs/extending.md):

    @FORMAT_REGISTRY.register()
    class MyFormat(DatasetFormat):
        layout = "boxes.npz next to images/"

        def find(self, folder): ...   # the files of each split
        def read(self, source, findings): ...   # the images and objects of a split
"""

# the order in which the formats are tried
from flowdet.data.custom.formats import voc, coco, yolo, darknet, labelme, cvat, vott, csv_file  # isort: skip
from flowdet.data.custom.formats.base import FORMAT_REGISTRY, DatasetFormat

__all__ = ["FORMAT_REGISTRY", "DatasetFormat"]
