"""Datasets and data loaders.

detection/       registered detection datasets: reading, mapping, loaders, the digits dataset
classification/  registered classification datasets: reading, augmentation, loaders
custom/          reads a user's folder in VOC or COCO format; needs no code of the user
image_files.py   finds image files on disk
image_reader.py  reads image files of all formats as uint8 RGB
"""
