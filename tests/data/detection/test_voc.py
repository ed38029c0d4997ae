import importlib.util
import shutil
from pathlib import Path

import pytest
from detectron2.data.datasets.pascal_voc import load_voc_instances

from flowdet.data.detection.voc import load_voc_dicts

CLASSES = ["cat", "dog"]
IMAGES = {
    "one": [((0, 0, 64, 48), "dog", 0), ((3, 4, 20, 30), "cat", 1)],
    "two": [((5, 6, 7, 8), "cat", 1)],
    "three": [],
}


@pytest.fixture(scope="module")
def prepare_voc():
    path = Path(__file__).parents[2] / "datasets" / "prepare_voc.py"
    spec = importlib.util.spec_from_file_location("prepare_voc", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(root, split="train", keep_difficult=True):
    return load_voc_dicts(root, split, CLASSES, keep_difficult)


def change(root, old, new, image_id="one"):
    path = root / "Annotations" / f"{image_id}.xml"
    path.write_text(path.read_text().replace(old, new))


def test_agrees_with_detectron2_but_for_difficult(voc_folder):
    root = voc_folder(IMAGES)
    ours = load(root)
    flags = [a.pop("difficult") for record in ours for a in record["annotations"]]
    assert flags == [0, 1, 1]
    assert ours == load_voc_instances(str(root), "train", CLASSES)


def test_boxes_survive_writing_and_reading(voc_folder):
    boxes = [a["bbox"] for a in load(voc_folder(IMAGES))[0]["annotations"]]
    assert boxes == [[0, 0, 64, 48], [3, 4, 20, 30]]


def test_difficult_objects_can_be_left_out_and_images_stay(voc_folder):
    records = load(voc_folder(IMAGES), keep_difficult=False)
    assert [r["image_id"] for r in records] == ["one", "two", "three"]
    assert [len(r["annotations"]) for r in records] == [1, 0, 0]


def test_split_of_one_image(voc_folder):
    assert len(load(voc_folder({"single": []}))) == 1


def test_fractional_corners_and_absent_optional_tags(voc_folder):
    root = voc_folder(IMAGES)
    change(root, "<xmin>4<", "<xmin>4.75<")
    change(root, "<difficult>1</difficult>", "")
    annotation = load(root)[0]["annotations"][1]
    assert annotation["bbox"][0] == 3.75 and annotation["difficult"] == 0


def test_missing_folder_names_variable_and_readme(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*DETECTRON2_DATASETS.*README"):
        load(tmp_path / "nowhere")


def test_missing_split_lists_those_there(voc_folder):
    with pytest.raises(FileNotFoundError, match=r"val.txt does not exist; .*: train\."):
        load(voc_folder(IMAGES), split="val")


def test_missing_annotation_names_image_and_split(voc_folder):
    root = voc_folder(IMAGES)
    (root / "Annotations" / "two.xml").unlink()
    with pytest.raises(FileNotFoundError, match="Image two of split 'train'.*two.xml"):
        load(root)


@pytest.mark.parametrize("ids", ["", "\n\n"])
def test_empty_split(voc_folder, ids):
    root = voc_folder(IMAGES)
    (root / "ImageSets" / "Main" / "train.txt").write_text(ids)
    with pytest.raises(ValueError, match="train.txt lists no image"):
        load(root)


def test_per_class_list_is_not_a_split(voc_folder):
    root = voc_folder(IMAGES)
    (root / "ImageSets" / "Main" / "cat_train.txt").write_text("one -1\ntwo 1\n")
    with pytest.raises(ValueError, match="'one -1' is not one image id"):
        load(root, split="cat_train")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", "one.xml:32: no element found"),
        ("<width>64</width>", "", "one.xml:3: <size/width> is missing"),
        ("<width>64<", "<width>0<", "one.xml:3: the image size must be positive"),
        ("<name>dog<", "<name>emu<", "one.xml:8: class 'emu' is unknown; known are cat, dog"),
        ("<name>dog<", "<name><", "one.xml:9: <name> is missing or empty"),
        ("<ymax>48</ymax>", "", "one.xml:13: <bndbox/ymax> is missing"),
        ("<xmin>4<", "<xmin>four<", "one.xml:26: <bndbox/xmin> is 'four', which is no number"),
        ("<xmin>4<", "<xmin>nan<", "one.xml:26: <bndbox/xmin> is 'nan', which is no number"),
        ("<xmin>4<", "<xmin>40<", "one.xml:20: the box 40, 5, 20, 30 of a 'cat' is empty"),
    ],
)
def test_malformed_annotation_names_file_and_fault(voc_folder, old, new, message):
    root = voc_folder(IMAGES)
    change(root, old, new)
    with pytest.raises(ValueError, match=message.replace("<", ".")):
        load(root)


def test_prepare_lays_out_without_touching_what_is_there(voc_folder, prepare_voc, tmp_path):
    target = tmp_path / "VOC2007"
    (target / "Annotations").mkdir(parents=True)
    (target / "Annotations" / "one.xml").write_text("mine")
    source = voc_folder(IMAGES)
    assert not prepare_voc.is_complete(target, "train")
    assert prepare_voc.lay_out(source, target) == 6
    assert prepare_voc.is_complete(target, "train")
    assert not prepare_voc.is_complete(target, "test")
    assert (target / "Annotations" / "one.xml").read_text() == "mine"


def test_prepare_says_when_the_download_fails(prepare_voc, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(prepare_voc, "VOCDetection", offline)
    with pytest.raises(RuntimeError, match="VOC 2007 test: no route to host.*VOC2007 has the"):
        prepare_voc.fetch(tmp_path, "2007", "test")
    assert not list(tmp_path.iterdir())


def test_prepare_moves_what_torchvision_unpacked(voc_folder, prepare_voc, tmp_path, monkeypatch):
    source = voc_folder(IMAGES, split="test")

    def unpack(root, year, image_set, download):
        shutil.copytree(source, Path(root) / "VOCdevkit" / f"VOC{year}")

    monkeypatch.setattr(prepare_voc, "VOCDetection", unpack)
    (tmp_path / "data").mkdir()
    prepare_voc.fetch(tmp_path / "data", "2007", "test")
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["VOC2007"]
    assert len(load(tmp_path / "data" / "VOC2007", split="test")) == 3
    with pytest.raises(RuntimeError, match="VOC2012 lacks files of split trainval"):
        prepare_voc.fetch(tmp_path / "data", "2012", "trainval")
