#!/usr/bin/env python
"""Draws docs/images/architecture.svg: what a training step computes, keeps and frees.

    docs/make_architecture_figure.py
    docs/make_architecture_figure.py --preview /tmp/architecture.png

The same call writes the same bytes. `--preview` also writes a picture to look at.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

SVG = Path(__file__).with_name("images") / "architecture.svg"

CARD, INK, MUTED = "#ffffff", "#1f2937", "#6b7280"
GRADIENT = "#c2410c"
# face and edge of the boxes
SHARED = ("#dbeafe", "#1d4ed8")
BLOCK = ("#dcfce7", "#15803d")
STATE = ("#f3f4f6", "#6b7280")
LOSS = ("#ffedd5", GRADIENT)

# centers of the rows of the blocks, and where the columns are
ROWS = [6.95, 5.75, 4.55, 3.35]
STATES = ["noise z₀, t = 0", "z at t = 0.25", "z at t = 0.5", "z at t = 0.75"]
TOKEN_BUS, GRADIENT_BUS = 3.66, 3.98
STATE_X, BLOCK_X, HEADS_X, LOSS_X = 5.06, 6.74, 8.3, 9.4
# heights of the arrows at a block, above the center of its row
STATE_Y, TOKENS_Y, GRADIENT_Y = 0.24, -0.05, -0.27


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preview", type=Path, metavar="PNG", help="also write this picture")
    return parser.parse_args()


def box(ax: Axes, center: tuple, size: tuple, colors: tuple, text: str, fontsize=9.5) -> None:
    """A labeled box with round corners."""
    (x, y), (width, height), (face, edge) = center, size, colors
    corner = (x - width / 2, y - height / 2)
    shape = "round,pad=0,rounding_size=0.08"
    ax.add_patch(FancyBboxPatch(corner, width, height, shape, fc=face, ec=edge, lw=1.3, zorder=3))
    ax.text(x, y, text, ha="center", va="center", fontsize=fontsize, color=INK, zorder=4)


def arrow(ax: Axes, points: list, color: str = INK, style: str = "-", width: float = 1.3) -> None:
    """A line through points that ends in an arrow head."""
    if len(points) > 2:
        ax.plot(*zip(*points[:-1]), color=color, ls=style, lw=width, zorder=2)
    head = {"arrowstyle": "-|>,head_width=0.22,head_length=0.4", "color": color, "lw": width}
    head |= {"linestyle": style, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 11}
    ax.annotate("", points[-1], points[-2], arrowprops=head, zorder=2)


def note(ax: Axes, x: float, y: float, text: str, color: str = MUTED, **keywords) -> None:
    ax.text(x, y, text, **{"fontsize": 8.5, "color": color, "va": "center", **keywords})


def draw_shared_parts(ax: Axes) -> None:
    """The backbone and the neck, the tokens that go to every block, and the summed gradient."""
    middle = (ROWS[0] + ROWS[-1]) / 2
    forward, backward = middle + 0.25, middle - 0.35
    box(ax, (0.62, middle), (0.84, 0.9), STATE, "image")
    box(ax, (1.78, middle), (1.04, 2.2), SHARED, "backbone")
    box(ax, (2.9, middle), (0.72, 1.6), SHARED, "neck")
    arrow(ax, [(1.04, middle), (1.26, middle)])
    arrow(ax, [(2.3, forward), (2.54, forward)])
    ax.plot([3.26, TOKEN_BUS], [forward] * 2, color=INK, lw=1.3, zorder=2)
    ends = [ROWS[-1] + TOKENS_Y, ROWS[0] + TOKENS_Y]
    ax.plot([TOKEN_BUS] * 2, ends, color=INK, lw=1.3, zorder=2)
    note(ax, TOKEN_BUS, ROWS[0] + 0.14, "tokens f", INK, ha="center")

    ends = [ROWS[-1] + GRADIENT_Y, ROWS[0] + GRADIENT_Y]
    ax.plot([GRADIENT_BUS] * 2, ends, color=GRADIENT, lw=1.6, zorder=2)
    arrow(ax, [(GRADIENT_BUS, backward), (3.26, backward)], GRADIENT, width=1.6)
    arrow(ax, [(2.54, backward), (2.3, backward)], GRADIENT, width=1.6)
    ax.add_patch(plt.Circle((GRADIENT_BUS, backward), 0.14, fc=CARD, ec=GRADIENT, lw=1.4, zorder=3))
    note(ax, GRADIENT_BUS, backward, "+", GRADIENT, ha="center", zorder=4, fontsize=11)
    note(ax, 3.5, middle - 1.38, "sum of the gradients\nof all blocks", GRADIENT, ha="right")


def draw_block(ax: Axes, number: int) -> None:
    """One row: state, block, heads and loss, with the gradient that stays in the row."""
    y = ROWS[number]
    left, right = BLOCK_X - 0.55, BLOCK_X + 0.55
    box(ax, (BLOCK_X, y), (1.1, 0.8), BLOCK, f"flow\nblock {number + 1}")
    box(ax, (STATE_X, y + STATE_Y), (1.4, 0.32), STATE, STATES[number], fontsize=8.5)
    box(ax, (LOSS_X, y), (0.84, 0.7), LOSS, f"loss {number + 1}")
    forward = [(STATE_X + 0.7, left, STATE_Y), (TOKEN_BUS, left, TOKENS_Y)]
    forward += [(right, HEADS_X - 0.36, 0.12), (HEADS_X + 0.36, LOSS_X - 0.42, 0.12)]
    backward = [(LOSS_X - 0.42, HEADS_X + 0.36, -0.12), (HEADS_X - 0.36, right, -0.12)]
    backward += [(left, GRADIENT_BUS, GRADIENT_Y)]
    for start, end, above in forward:
        arrow(ax, [(start, y + above), (end, y + above)])
    for start, end, above in backward:
        arrow(ax, [(start, y + above), (end, y + above)], GRADIENT)


def draw_rollout(ax: Axes, number: int) -> None:
    """The state that a block hands to the next one, without a gradient."""
    bottom, top = ROWS[number] - 0.4, ROWS[number + 1] + STATE_Y + 0.16
    turn = (ROWS[number] + ROWS[number + 1]) / 2
    arrow(ax, [(BLOCK_X, bottom), (BLOCK_X, turn), (STATE_X, turn), (STATE_X, top)], MUTED, "--")
    stop_mark(ax, (BLOCK_X + STATE_X) / 2, turn)


def stop_mark(ax: Axes, x: float, y: float) -> None:
    """A bar across a line: the gradient ends here."""
    ax.plot([x, x], [y - 0.12, y + 0.12], color=GRADIENT, lw=2.8, zorder=3)


def draw_model(ax: Axes) -> None:
    draw_shared_parts(ax)
    center, height = (ROWS[0] + ROWS[-1]) / 2, ROWS[0] - ROWS[-1] + 0.9
    box(ax, (HEADS_X, center), (0.72, height), SHARED, "shared\nheads:\nclass\nand\nbox")
    for number in range(len(ROWS)):
        draw_block(ax, number)
    for number in range(len(ROWS) - 1):
        draw_rollout(ax, number)


def draw_legend(ax: Axes) -> None:
    y = 2.42
    arrow(ax, [(0.3, y), (0.72, y)])
    note(ax, 0.82, y, "forward")
    arrow(ax, [(1.75, y), (2.17, y)], GRADIENT, width=1.6)
    note(ax, 2.27, y, "gradient")
    arrow(ax, [(3.3, y), (3.95, y)], MUTED, "--")
    stop_mark(ax, 3.6, y)
    note(ax, 4.05, y, "state for the next block, detached: no gradient between blocks")


def draw_timeline(ax: Axes, left: float, title: str, bars: list[tuple]) -> None:
    """What is in memory during a training step.

    Args:
        left: x of the panel.
        title: above it.
        bars: name, first and last moment (of six), face and edge of each.
    """
    moment, top = 0.5, 1.5
    labels = left + 1.45
    note(ax, left, top + 0.36, title, INK, fontsize=9.5, fontweight="bold")
    for row, (name, first, last, (face, edge)) in enumerate(bars):
        y = top - 0.27 * row
        corner = (labels + moment * first + 0.03, y - 0.09)
        width = moment * (last - first + 1) - 0.06
        ax.add_patch(plt.Rectangle(corner, width, 0.18, fc=face, ec=edge, lw=1.1, zorder=3))
        note(ax, labels - 0.08, y, name, INK, ha="right", fontsize=8.5)
    bottom = top - 0.27 * len(bars) + 0.06
    arrow(ax, [(labels, bottom), (labels + 6 * moment + 0.15, bottom)], MUTED, width=1.0)
    note(ax, labels + 6 * moment + 0.1, bottom - 0.17, "time of one training step", ha="right")


def draw_timelines(ax: Axes) -> None:
    """Block-local training against end-to-end training."""
    local = [("backbone, neck", 0, 5, SHARED)]
    local += [(f"block {k}", k, k, BLOCK) for k in range(1, 5)]
    local += [("summed gradient", 1, 5, LOSS)]
    chained = [("backbone, neck", 0, 5, SHARED)]
    chained += [(f"block {k}", k * 0.5 + 0.25, 5.15 - k * 0.5, BLOCK) for k in range(1, 5)]
    draw_timeline(ax, 0.3, "In memory: flowdet", local)
    note(ax, 2.85, 1.5 - 0.27, "freed before block 2 starts", fontsize=8)
    draw_timeline(ax, 5.3, "In memory: end-to-end backpropagation", chained)


def draw() -> Figure:
    figure = plt.figure(figsize=(9, 7.1))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 10), ylim=(-0.42, 7.6))
    ax.axis("off")
    card = FancyBboxPatch((0.06, -0.36), 9.88, 7.9, "round,pad=0,rounding_size=0.15")
    card.set(fc=CARD, ec="#d1d5db", lw=1, zorder=0)
    ax.add_patch(card)
    draw_model(ax)
    draw_legend(ax)
    draw_timelines(ax)
    return figure


def main() -> None:
    args = parse_args()
    # text stays text; ids do not change from call to call, and no date is written
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "flowdet"})
    figure = draw()
    figure.savefig(SVG, transparent=True, metadata={"Date": None, "Creator": None})
    if args.preview:
        figure.savefig(args.preview, dpi=94, facecolor="#0d1117")


if __name__ == "__main__":
    main()
