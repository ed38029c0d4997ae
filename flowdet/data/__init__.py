"""Datasets and data loaders.

detection/       registered detection datasets: reading, mapping, loaders, the digits
classification/  registered classification datasets: reading, augmentation, loaders
custom/          a user's folder in VOC or COCO format, without code
image_files.py   finds image files on disk
"""
