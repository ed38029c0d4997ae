"""Pictures as text, for HTML pages and notebooks that need no other file."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL import Image


def data_uri(image: Image.Image) -> str:
    """Encodes a picture as a data URI of a JPEG, the value of `src` of an HTML image."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def figure(picture: Image.Image, caption: str) -> str:
    """Returns HTML of a picture with a caption, which is also its alternative text.

    Args:
        picture: the picture, RGB.
        caption: plain text; it is escaped.
    """
    text = escape(caption)
    return (
        f'<figure style="margin:0;max-width:{picture.width}px">'
        f'<img style="max-width:100%" alt="{text}" src="{data_uri(picture)}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
