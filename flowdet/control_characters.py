"""Characters that names of classes, files and folders may have, and that no output can show."""

import re

# control characters, characters that change the direction of text, halves of surrogate pairs: they
# break lines, move the cursor of a terminal, or cannot be written to a file
NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    """Returns a text in which what `NO_TEXT` matches is escaped."""
    return NO_TEXT.sub(lambda match: ascii(match[0])[1:-1], text)
