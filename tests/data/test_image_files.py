"""Finding image files by paths, folders and patterns; spreading indices."""

import os

import pytest
from PIL import Image

from flowdet.data.image_files import conversion_hint, evenly_spaced_indices, find_images

# what is no image in the folder
LEFT_OUT = (
    "left out: 2 files without the suffix of an image (notes.txt, paper.pdf) and 2 folders (empty, "
    "inner)"
)


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


def test_files_are_not_opened(folder):
    """A broken file is an error of its own when it is read, not of the whole folder."""
    (folder / "broken.jpg").write_bytes(b"")
    assert "broken.jpg" in names(folder)


@pytest.mark.parametrize("hidden", ["._a.JPG", ".b.png", "._c.heic"])
def test_hidden_files_of_a_folder_are_left_out(folder, hidden):
    expected, messages = names(folder), []
    (folder / hidden).write_bytes(b"")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "b-checkpoint.png").write_bytes(b"")
    assert [x.name for x in find_images([folder], messages.append)] == expected
    assert "b-checkpoint.png" not in names(f"{folder}/**")
    assert messages == [LEFT_OUT]


UNREADABLE = ("a.HEIC", "b.heif", "c.CR2", "d.nef", "e.dng", "f.svg", "g.exr", "h.dcm", "i.jxl")


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("pattern", ["", "/*"])
def test_pictures_that_cannot_be_read_are_named(folder, name, pattern):
    (folder / name).write_bytes(b"")
    messages = []
    images = find_images([f"{folder}{pattern}"], messages.append)
    assert [x.name for x in images] == ["a.JPG", "b.png", "c.gif", "odd[1].png"]
    assert messages == [f"passed over: {name}: convert it to jpg or png", LEFT_OUT]


def test_many_unreadable_pictures_are_one_line(folder):
    for name in UNREADABLE:
        (folder / name).write_bytes(b"")
    messages = []
    find_images([folder, f"{folder}/*"], messages.append)
    five = ", ".join(UNREADABLE[:5])
    assert messages == [f"passed over: {five} and 4 more: convert them to jpg or png", LEFT_OUT]


def test_other_files_are_one_line(folder):
    others = ("a.jpeg ", "b.jpg.bak", "c", "d.xml", "e.mp4")
    for name in others:
        (folder / name).write_bytes(b"")
    (folder / "f.jpg").mkdir()
    messages = []
    find_images([folder, f"{folder}/*"], messages.append)
    names = "'a.jpeg ', b.jpg.bak, c, d.xml, e.mp4 and 2 more"
    folders = "3 folders (empty, f.jpg, inner)"
    assert messages == [f"left out: 7 files without the suffix of an image ({names}) and {folders}"]
    # the files that are named are not left out, and ** searches the folders
    messages.clear()
    find_images([folder / name for name in others] + [f"{folder}/**"], messages.append)
    assert messages == ["left out: 2 files without the suffix of an image (notes.txt, paper.pdf)"]
    messages.clear()
    find_images([folder / "inner"], messages.append)
    assert messages == []


def test_a_folder_of_unreadable_pictures_is_an_error_that_names_them(folder):
    (folder / "empty" / "IMG_1.HEIC").write_bytes(b"")
    message = "contains no image that can be read: convert IMG_1.HEIC to jpg or png"
    with pytest.raises(FileNotFoundError, match=message):
        find_images([folder / "empty"])


def test_an_unreadable_picture_that_is_named_is_listed(folder):
    """Reading it gives the error; its advice is to convert the file."""
    (folder / "IMG_1.HEIC").write_bytes(b"")
    messages = []
    images = find_images([folder / "IMG_1.HEIC", folder / "b.png"], messages.append)
    assert [x.name for x in images] == ["IMG_1.HEIC", "b.png"] and messages == []
    assert conversion_hint("x/IMG_1.HEIC") == ": convert it to jpg or png"
    assert conversion_hint("x/a.jpg") == conversion_hint("x/notes.txt") == ""


@pytest.mark.parametrize(
    ("length", "count", "indices"),
    [(10, 2, [2, 7]), (7, 3, [1, 3, 5]), (3, 5, [0, 1, 2]), (5, 1, [2]), (0, 4, [])],
)
def test_indices_are_evenly_spaced(length, count, indices):
    assert evenly_spaced_indices(length, count) == indices


def test_files_that_cannot_be_read_are_listed(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "c.png").symlink_to(tmp_path / "c.png")
    os.mkfifo(tmp_path / "d.png")
    (tmp_path / "e.png").mkdir()
    assert [path.name for path in find_images([tmp_path])] == ["a.png", "b.png", "c.png", "d.png"]


def test_an_empty_name_is_not_the_working_folder():
    with pytest.raises(FileNotFoundError, match="the name is empty"):
        find_images([""])
