#!/usr/bin/env python
"""Draws the box trajectories that README.md and docs/how_it_works.md show.

    docs/make_trajectory_pictures.py --run output/voc_flow_r18_frozen --name voc \\
        --images $DETECTRON2_DATASETS/VOC2012/JPEGImages/{2008_003800,2010_001301}.jpg

images/NAME_trajectory.gif has every third frame of the animation of `tools/demo.py --animate gif`.
images/NAME_trajectory.jpg has one row per image: the boxes at five times, and the detections.
"""

import argparse
from pathlib import Path

import flowdet
from flowdet.inference.pipeline import TRAJECTORY_FRAMES
from flowdet.inference.video_writer import save_animation
from flowdet.visualization.animation import animation_frames, trajectory_tiles
from flowdet.visualization.box_trajectory import box_trajectory
from flowdet.visualization.drawing import DetectionVisualizer, contact_sheet

IMAGES = Path(__file__).with_name("images")
# frames from one column of the still picture to the next
STILL_STRIDE = (TRAJECTORY_FRAMES - 1) // 4
COLUMN_TITLES = ["t = 0: noise", "t = 0.25", "t = 0.5", "t = 0.75", "t = 1", "detections"]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="output folder of a training")
    parser.add_argument("--images", nargs="+", required=True)
    parser.add_argument("--name", required=True, help="the pictures are NAME_trajectory.*")
    parser.add_argument("--score-threshold", type=float, default=0.5)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    predictor = flowdet.load(args.run).predictor
    visualizer = DetectionVisualizer(predictor.class_names, args.score_threshold)
    results = list(predictor.stream(args.images, analyses=[box_trajectory(TRAJECTORY_FRAMES)]))
    names = [Path(image).stem for image in args.images]
    frames = list(animation_frames(visualizer, results, names))
    save_animation([*frames[:-1:3], frames[-1]], IMAGES / f"{args.name}_trajectory.gif")
    rows = [list(trajectory_tiles(visualizer, result)) for result in results]
    tiles = [tile for row in rows for tile in (*row[:-1:STILL_STRIDE], row[-1])]
    sheet = contact_sheet(tiles, COLUMN_TITLES * len(rows), len(COLUMN_TITLES))
    sheet.save(IMAGES / f"{args.name}_trajectory.jpg", quality=80)


if __name__ == "__main__":
    main(parse_args())
