"""Finding image files by paths, folders and patterns; spreading indices."""

import pytest
from PIL import Image

from flowdet.data.image_files import evenly_spaced_indices, find_images


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "c.gif", "inner/d.bmp", "odd[1].png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 3)).save(path)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "paper.pdf").write_bytes(b"%PDF")
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(*inputs):
    return [path.name for path in find_images(inputs)]


def test_folders_files_and_patterns_give_sorted_images_once(folder):
    top = ["a.JPG", "b.png", "c.gif", "odd[1].png"]
    assert names(folder) == top
    assert names(f"{folder}/*") == top
    assert names(f"{folder}/b.png", folder, f"{folder}/inner/../b.png", f"{folder}/[ab]*") == top
    assert names(f"{folder}/**") == [*top[:3], "d.bmp", top[3]]
    assert names(f"{folder}/odd[1].png") == ["odd[1].png"]


def test_file_that_is_named_may_have_any_suffix(folder):
    (folder / "b.png").rename(folder / "b.photo")
    assert names(folder / "b.photo") == ["b.photo"]


@pytest.mark.parametrize("wrong", ["gone.png", "empty", "*.webp", "gone/*.png", "empty/**"])
def test_input_without_images_is_named(folder, wrong):
    with pytest.raises(FileNotFoundError) as error:
        find_images([folder, f"{folder}/{wrong}"])
    assert wrong in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_file_that_is_not_an_image_is_named(folder, content):
    (folder / "broken.jpg").write_bytes(content)
    with pytest.raises(OSError, match="broken.jpg"):
        find_images([folder])


@pytest.mark.parametrize(
    ("length", "count", "indices"),
    [(10, 2, [2, 7]), (7, 3, [1, 3, 5]), (3, 5, [0, 1, 2]), (5, 1, [2]), (0, 4, [])],
)
def test_indices_are_evenly_spaced(length, count, indices):
    assert evenly_spaced_indices(length, count) == indices
