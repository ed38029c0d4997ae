"""Reads datasets with one format, for the tests of the formats."""

from __future__ import annotations

import numpy as np

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.image_finder import walk

HEIGHT, WIDTH = 48, 64


def find(dataset_format, folder):
    """The splits that a format finds, by usual names or by content; None for none."""
    return dataset_format.find(folder) or dataset_format.search(folder, list(walk(folder)))


def read(dataset_format, folder, on_problem="list"):
    """The raw content of every split, and the findings."""
    findings = Findings(folder, on_problem)
    splits = find(dataset_format, folder)
    return {
        split: dataset_format.read(source, findings) for split, source in splits.items()
    }, findings


def objects(raw):
    """{name of the image file: [(class, corners), ...]} of a split."""
    return {
        image.path.name: [(obj.name, tuple(obj.corners)) for obj in image.objects]
        for image in raw.images
    }


def texts(findings):
    """Every finding as "kind: where: text"."""
    return [f"{finding.kind}: {finding}" for finding in findings]


def problem_of(dataset_format, folder):
    """The only problem of a dataset; reading it with "stop" raises it in one line."""
    _, findings = read(dataset_format, folder)
    (problem,) = texts(findings.problems)
    try:
        read(dataset_format, folder, "stop")
    except ValueError as error:
        assert problem.partition(": ")[2] in str(error) and "\n" not in str(error)
    else:
        raise AssertionError("the problem is not raised")
    return problem


def random_boxes(seed, count=6):
    """`count` boxes with areas from under one pixel to most of the image, absolute xyxy."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(0.3), np.log(40), (count, 2)))
    corners = rng.uniform(0, (WIDTH, HEIGHT) - sides)
    return [tuple(box) for box in np.hstack([corners, corners + sides]).tolist()]
