"""Finding images by the names in annotations."""

import unicodedata

import pytest

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.image_finder import FilesByStem, ImageFinder, closest, is_hidden, walk


@pytest.fixture
def findings(tmp_path):
    return Findings(tmp_path, "skip")


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def find(folders, findings, *names):
    return ImageFinder(folders, findings).find(
        [(name, f"line {i}") for i, name in enumerate(names)]
    )


def test_names_that_exist_are_taken_as_they_are(tmp_path, findings):
    root = write(tmp_path, "a.png", "A.png", "cam 1/b%20c.jpg", "Größe.png")
    names = ["a.png", "A.png", "cam 1/b%20c.jpg", "Größe.png"]
    assert find([root], findings, *names) == [root / name for name in names]
    assert findings.problems == findings.repairs == []


@pytest.mark.parametrize(
    "name",
    [
        r"images\cam\photo 1.jpg",
        r"C:\Users\me\data\cam\photo 1.jpg",
        "/home/me/cam/photo 1.jpg",
        "https://host.example/upload/cam/photo%201.jpg",
        "../other/photo 1.jpg",
        "cam/PHOTO 1.JPG",
        " cam/photo 1.jpg ",
        "train/photo 1.jpg",
    ],
)
def test_a_name_from_elsewhere_is_found_and_reported(tmp_path, findings, name):
    root = write(tmp_path, "cam/photo 1.jpg", "cam/photo 2.jpg")
    assert find([root], findings, name) == [root / "cam" / "photo 1.jpg"]
    (repair,) = findings.repairs
    assert (repair.kind, repair.where) == ("file name adapted", "line 0")
    assert name in repair.text and "photo 1.jpg" in repair.text


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_the_unicode_form_of_a_name_may_differ(tmp_path, findings, forms):
    on_disk, in_file = (unicodedata.normalize(form, "Größe.png") for form in forms)
    root = write(tmp_path, on_disk)
    assert find([root], findings, in_file) == [root / on_disk]


def test_two_files_that_fit_are_a_problem(tmp_path, findings):
    root = write(tmp_path, "cam1/a.png", "cam2/a.png")
    assert find([root], findings, "/elsewhere/a.png") == [None]
    assert "several images have this name" in findings.problems[0].text
    # the folder decides
    assert find([root], findings, "D:/x/cam2/a.png") == [root / "cam2" / "a.png"]


def test_an_image_is_not_found_under_a_second_name(tmp_path, findings):
    root = write(tmp_path, "cam2/a.png")
    paths = find([root], findings, "cam1/a.png", "cam2/a.png")
    assert paths == [None, root / "cam2" / "a.png"]
    assert findings.problems[0].kind == "missing image" and not findings.repairs


def test_a_missing_image_tells_the_nearest_name(tmp_path, findings):
    root = write(tmp_path, "street_0012.png")
    assert find([root], findings, "street_0021.png") == [None]
    text = findings.problems[0].text
    assert text.endswith(f"; an image of a similar name is {root / 'street_0012.png'}")


def test_an_image_of_another_split_is_not_taken(tmp_path, findings):
    write(tmp_path, "train/3.png", "val/1.png")
    finder = ImageFinder([tmp_path / "val", tmp_path], findings, tmp_path, "val")
    assert finder.find([("1.png", ""), ("3.png", "")]) == [tmp_path / "val" / "1.png", None]
    assert findings.problems[0].kind == "missing image" and not findings.repairs
    # with its path it is, as COCO's minival has images of train
    assert finder.find([("train/3.png", "")]) == [tmp_path / "train" / "3.png"]


def test_one_name_may_be_adapted_twice(tmp_path, findings):
    root = write(tmp_path, "a.png", "b.png")
    names = [r"images\a.png", r"images\a.png"]
    assert find([root], findings, *names) == [root / "a.png"] * 2


def test_the_image_of_the_folder_like_that_of_the_annotation_is_taken(tmp_path, findings):
    root = write(tmp_path, "images/a/0.png", "images/b/0.png")
    finder = ImageFinder([root / "images" / "a", root / "images" / "b"], findings)
    annotations = [root / "labels" / "b" / "0.json", root / "labels" / "c" / "0.json"]
    paths = finder.find([("0.png", ""), ("0.png", "")], annotations)
    assert paths == [root / "images" / "b" / "0.png", None]
    assert closest(root / "cam1/ann/0.xml", [root / "cam1/img/0", root / "cam2/img/0"]) == (
        root / "cam1/img/0"
    )


def test_the_folder_with_most_images_is_preferred(tmp_path, findings):
    write(tmp_path, "train/0.png", "train/1.png", "val/0.png")
    finder = ImageFinder([tmp_path / "val", tmp_path / "train"], findings)
    finder.prefer(["0.png", "1.png"])
    assert finder.find([("0.png", "")]) == [tmp_path / "train" / "0.png"]


def test_a_name_in_two_folders_is_ambiguous_unless_one_has_more_images(tmp_path, findings):
    write(tmp_path, "cam1/0.png", "cam2/0.png", "cam2/1.png")
    finder = ImageFinder([tmp_path / "cam1", tmp_path / "cam2"], findings)
    finder.prefer(["0.png"])
    assert finder.find([("0.png", "image 1")]) == [None]
    assert "several images have this name" in findings.problems[0].text
    finder.prefer(["0.png", "1.png"])
    assert finder.find([("0.png", "image 1")]) == [tmp_path / "cam2" / "0.png"]


def test_a_very_long_name_is_missing(tmp_path, findings):
    finder = ImageFinder([write(tmp_path, "a.png")], findings)
    name = "x" * 300 + ".png"
    finder.prefer([name])
    assert finder.find([(name, "image 1")]) == [None]


def test_hidden_files_and_folders_are_passed_over(tmp_path, findings):
    write(tmp_path, "a.png", "._a.png", ".ipynb_checkpoints/a.png", "__MACOSX/a.png", ".DS_Store")
    assert list(walk(tmp_path)) == [tmp_path / "a.png"]
    assert is_hidden("._x") and not is_hidden("x.y")
    # so that exactly one file fits
    assert find([tmp_path], findings, r"data\a.png") == [tmp_path / "a.png"]


def test_files_by_stem(tmp_path):
    root = write(tmp_path, "a.png", "b.c.jpg")
    files = FilesByStem([root / "a.png", root / "b.c.jpg"], [root])
    assert files.ids == ["a", "b.c"]
    assert files.get("b.c") == [root / "b.c.jpg"] and files.get("b") == []
    assert files.similar("A") == root / "a.png" and files.similar("x") is None


def test_files_of_one_name_in_several_folders_have_their_path_as_id(tmp_path):
    root = write(tmp_path, "cam1/a.png", "cam2/a.png")
    folders = [root / "cam1", root / "cam2"]
    files = FilesByStem([folder / "a.png" for folder in folders], folders)
    assert files.ids == ["cam1/a", "cam2/a"]
    assert files.get("cam2/a") == [root / "cam2" / "a.png"]
    assert files.similar("a") is None


def test_a_link_to_a_file_is_the_same_file(tmp_path):
    root = write(tmp_path, "all/a.png", "cam/b.png")
    (root / "cam" / "a.png").symlink_to(root / "all" / "a.png")
    folders = [root / "all", root / "cam"]
    files = FilesByStem([root / "all/a.png", root / "cam/a.png", root / "cam/b.png"], folders)
    assert files.get("a") == files.by_name("a") == [root / "all" / "a.png"]


def test_links_to_folders_are_followed_without_loops(tmp_path):
    root = write(tmp_path / "data", "images/a.png")
    write(tmp_path / "store", "b.png")
    (root / "images" / "more").symlink_to(tmp_path / "store")
    (root / "images" / "loop").symlink_to(root)
    assert list(walk(root)) == [root / "images/a.png", root / "images/more/b.png"]
