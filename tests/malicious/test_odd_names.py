"""Odd names, and files that are none: each is read, or refused with one clear line."""

from itertools import islice

import pytest

from tests.malicious.odd_names import (
    class_outcomes,
    image_outcomes,
    path_outcomes,
    special_outcomes,
    url_outcomes,
)
from tests.malicious.text_files import FORMATS


@pytest.mark.parametrize("outcomes", [class_outcomes, image_outcomes, special_outcomes])
def test_the_first_name_in_every_format(tmp_path, outcomes):
    for outcome in islice(outcomes(tmp_path), len(FORMATS)):
        assert outcome.is_clear, outcome


def test_folders(tmp_path):
    for outcome in islice(path_outcomes(tmp_path), 6):
        assert outcome.is_clear, outcome


def test_urls():
    for outcome in url_outcomes():
        assert outcome.is_clear, outcome
