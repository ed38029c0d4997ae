"""The formats of annotations that flowdet reads: one file per format.

    base.py           base class, registry and helpers of all formats
    listed_images.py  helpers of formats whose files list images by name
    voc.py            PASCAL VOC: one xml file per image
    coco.py           COCO: one json file per split, also of Roboflow, CVAT and Label Studio
    yolo/             YOLO: one txt file per image, with a data.yaml or without
    darknet.py        darknet: obj.data, obj.names and lists of images; uses the files of yolo/
    labelme.py        LabelMe: one json file per image
    cvat.py           CVAT for images: one xml file for all images
    vott.py           VoTT: one json file for all images
    csv_file.py       csv: one line per box
    csv_table.py      columns and delimiters of csv files

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
