"""Fills the template of the explorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import flowdet


@dataclass(frozen=True)
class ExplorerContent:
    """What the explorer shows besides the images.

    Attributes:
        title: the title of the page.
        model: a sentence without a full stop about model and inference mode.
        class_names: the class names by class index.
        seeds: the noise seeds; [None] for a detector without a choice of seeds.
        blocks: the number of blocks whose predictions are shown.
        stability: whether the model multiplies its scores by the box stability.
        least_score: the lowest score of the stored detections.
        threshold: the score threshold at first.
    """

    title: str
    model: str
    class_names: Sequence[str]
    seeds: Sequence[int | None]
    blocks: int
    stability: bool
    least_score: float
    threshold: float


def explorer_html(content: ExplorerContent, names: Sequence[str], entries: Sequence[Markup]) -> str:
    """Returns the page, which needs no other file and no network.

    Args:
        content: see `ExplorerContent`.
        names: the names of the images.
        entries: the entry of every image, JSON that is safe in HTML, see
            `flowdet.inference.explorer_entry.explorer_entry`.
    """
    folder = files(__package__)
    return (
        _environment()
        .get_template("explorer.html.jinja")
        .render(
            title=content.title,
            model=content.model,
            blocks=content.blocks,
            stability=content.stability,
            data={
                "classes": list(content.class_names),
                "images": list(names),
                "seeds": list(content.seeds),
                "blocks": content.blocks,
                "stability": content.stability,
                "leastScore": content.least_score,
                "threshold": max(content.threshold, content.least_score),
            },
            entries=entries,
            script=Markup(folder.joinpath("explorer.js").read_text(encoding="utf-8")),
            version=flowdet.__version__,
        )
    )


def _environment() -> Environment:
    """Returns the template environment. It escapes all text, and an unknown name is an error."""
    return Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
