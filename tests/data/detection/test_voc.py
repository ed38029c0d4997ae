"""VOC annotations: values as detectron2 reads them, and errors with file and line."""

import pytest
from detectron2.data.datasets.pascal_voc import load_voc_instances

from flowdet.data.detection.voc import load_voc_dicts

CLASSES = ["cat", "dog"]
IMAGES = {
    "one": [((0, 0, 64, 48), "dog", 0), ((3, 4, 20, 30), "cat", 1)],
    "two": [((5, 6, 7, 8), "cat", 1)],
    "three": [],
}


def load(root, split="train", keep_difficult=True):
    return load_voc_dicts(root, split, CLASSES, keep_difficult)


def change(root, old, new, image_id="one"):
    path = root / "Annotations" / f"{image_id}.xml"
    path.write_text(path.read_text().replace(old, new))


def test_agrees_with_detectron2_except_for_difficult(voc_folder):
    root = voc_folder(IMAGES)
    ours = load(root)
    flags = [a.pop("difficult") for record in ours for a in record["annotations"]]
    assert flags == [0, 1, 1]
    assert ours == load_voc_instances(str(root), "train", CLASSES)


def test_boxes_survive_writing_and_reading(voc_folder):
    boxes = [a["bbox"] for a in load(voc_folder(IMAGES))[0]["annotations"]]
    assert boxes == [[0, 0, 64, 48], [3, 4, 20, 30]]


def test_difficult_objects_can_be_left_out_without_their_images(voc_folder):
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


def test_missing_folder_names_the_environment_variable_and_the_readme(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*DETECTRON2_DATASETS.*README"):
        load(tmp_path / "nowhere")


def test_missing_split_lists_the_existing_ones(voc_folder):
    with pytest.raises(FileNotFoundError, match=r"val.txt does not exist; .*: train$"):
        load(voc_folder(IMAGES), split="val")


def test_missing_annotation_names_image_and_split(voc_folder):
    root = voc_folder(IMAGES)
    (root / "Annotations" / "two.xml").unlink()
    with pytest.raises(FileNotFoundError, match="image two of split 'train'.*two.xml"):
        load(root)


@pytest.mark.parametrize("ids", ["", "\n\n"])
def test_empty_split(voc_folder, ids):
    root = voc_folder(IMAGES)
    (root / "ImageSets" / "Main" / "train.txt").write_text(ids)
    with pytest.raises(ValueError, match="train.txt lists no image"):
        load(root)


def test_list_of_a_single_class_is_not_a_split(voc_folder):
    root = voc_folder(IMAGES)
    (root / "ImageSets" / "Main" / "cat_train.txt").write_text("one -1\ntwo 1\n")
    with pytest.raises(ValueError, match="'one -1' is not one image id"):
        load(root, split="cat_train")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", "one.xml:32: no element found"),
        ("<width>64</width>", "", "one.xml:3: <size/width> is missing"),
        ("<width>64<", "<width>0<", "one.xml:4: <size/width> is '0', not a positive number"),
        ("<name>dog<", "<name>emu<", "one.xml:8: class 'emu' is unknown; the classes are cat, dog"),
        ("<name>dog<", "<name><", "one.xml:9: <name> is missing or empty"),
        ("<ymax>48</ymax>", "", "one.xml:13: <bndbox/ymax> is missing"),
        ("<xmin>4<", "<xmin>four<", "one.xml:26: <bndbox/xmin> is 'four', not a number"),
        ("<xmin>4<", "<xmin>nan<", "one.xml:26: <bndbox/xmin> is 'nan', not a number"),
        ("<xmin>4<", "<xmin>40<", "one.xml:20: the box 40, 5, 20, 30 of a 'cat' is empty"),
    ],
)
def test_malformed_annotation_names_file_line_and_mistake(voc_folder, old, new, message):
    root = voc_folder(IMAGES)
    change(root, old, new)
    with pytest.raises(ValueError, match=message.replace("<", ".")):
        load(root)
