"""Reading datasets in VOC format: accepted layouts, values, and errors for broken files."""

import shutil

import pytest

from flowdet.data.custom import CustomDataset
from flowdet.data.custom.check import check_dataset
from tests.data.custom.example_datasets import (
    CAT,
    DOG,
    TRAIN,
    VAL,
    assert_first_problem,
    boxes_of,
    read_all,
    write_image,
)

CONTENT = [
    ("a", [(0, [2, 3, 30, 33]), (1, [40, 10, 60, 40])]),
    ("b", [(0, [2, 3, 30, 33]), (1, [40, 10, 60, 40])]),
]


@pytest.fixture
def root(voc_folder):
    voc_folder(TRAIN, split="train")
    return voc_folder(VAL, split="val")


def folder_per_split(root):
    """Copies the dataset to one folder per split, with the xml files next to the images."""
    target = root.parent / "plain"
    for split, ids in (("train", "ab"), ("val", "cd")):
        (target / split).mkdir(parents=True)
        for name in ids:
            shutil.copy(root / "JPEGImages" / f"{name}.jpg", target / split)
            shutil.copy(root / "Annotations" / f"{name}.xml", target / split)
    return target


def xml(root, name):
    return root / "Annotations" / f"{name}.xml"


def change(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_voc_layout(root):
    records = read_all(root)
    assert boxes_of(records["train"]) == CONTENT
    assert boxes_of(records["val"]) == [("c", CONTENT[1][1][:1]), ("d", CONTENT[0][1][::-1])]
    assert CustomDataset(root).class_names == ["cat", "dog"]
    first = records["train"][0]
    assert (first["image_id"], first["height"], first["width"]) == ("a", 48, 64)
    assert first["annotations"][0]["difficult"] == 0


@pytest.mark.parametrize("subfolders", [False, True])
def test_folder_per_split(root, subfolders):
    folder = folder_per_split(root)
    (folder / "val").rename(folder / "valid")
    if subfolders:
        for parent in (folder / "train", folder / "valid"):
            for kind in ("jpg", "xml"):
                (parent / kind).mkdir()
                for file in parent.glob(f"*.{kind}"):
                    file.rename(parent / kind / file.name)
    assert boxes_of(read_all(folder)["train"]) == CONTENT
    assert len(read_all(folder)["val"]) == 2


def test_other_image_formats_and_names_with_blanks(root):
    write_image(root / "JPEGImages" / "my photo.webp")
    xml(root, "b").rename(xml(root, "my photo"))
    (root / "ImageSets/Main/train.txt").write_text("a\n\nmy photo\n")
    assert boxes_of(read_all(root)["train"])[1][0] == "my photo"


def test_class_file_sets_the_order_and_classes_without_objects(root):
    (root / "classes.txt").write_text("dog\nowl\n\ncat\n")
    assert CustomDataset(root).class_names == ["dog", "owl", "cat"]
    assert boxes_of(read_all(root)["train"])[1][1][0][0] == 2


def test_trainval_and_test_are_accepted_as_splits(root):
    lists = root / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "val.txt").rename(lists / "test.txt")
    assert list(read_all(root)) == ["train", "test"]


def test_pixels_may_be_counted_from_0(root):
    change(xml(root, "b"), "<xmin>3<", "<xmin>0<")
    change(xml(root, "b"), "<xmax>60<", "<xmax>64.6<")
    boxes = [box for _, box in boxes_of(read_all(root)["train"])[1][1]]
    assert boxes == [[0, 3, 30, 33], [40, 10, 64, 40]]


# how the dataset is broken, and the error
BROKEN = {
    "image is missing": (
        lambda root: (root / "JPEGImages/a.jpg").unlink(),
        r"train.txt:1: there is no image a\.\* in .*JPEGImages",
    ),
    "image without annotation": (
        lambda root: xml(root, "b").unlink(),
        r"train.txt:2: there is no b.xml; an image without objects needs an .xml file too",
    ),
    "listed twice": (
        lambda root: change(root / "ImageSets/Main/train.txt", "b\n", "b\na\n"),
        r"train.txt:3: image a is listed twice",
    ),
    "class only in val": (
        lambda root: change(xml(root, "d"), "dog", "emu"),
        r"d.xml:8: class 'emu' is unknown; the classes in the annotations of .*train.txt: cat, dog",
    ),
    "class not in the class file": (
        lambda root: (root / "labels.txt").write_text("cat\n"),
        r"a.xml:20: class 'dog' is unknown; the classes in .*labels.txt: cat",
    ),
    "class file names a class twice": (
        lambda root: (root / "classes.txt").write_text("cat\ndog\ncat\n"),
        r"classes.txt:3: class 'cat' is listed twice",
    ),
    "box outside": (
        lambda root: change(xml(root, "a"), "<xmax>60<", "<xmax>90<"),
        r"a.xml:20: the box of a 'dog' leaves the image of 64x48: corners 41, 11, 90, 40",
    ),
    "negative box": (
        lambda root: change(xml(root, "a"), "<ymin>4<", "<ymin>-9<"),
        r"a.xml:8: the box of a 'cat' leaves the image of 64x48: corners 3, -9, 30, 33",
    ),
    "corners in the wrong order": (
        lambda root: change(xml(root, "c"), "<ymin>4<", "<ymin>44<"),
        r"c.xml:8: the box of a 'cat' has its corners in the wrong order: x 3 to 30, y 44 to 33",
    ),
    "empty list": (
        lambda root: (root / "ImageSets/Main/val.txt").write_text("\n"),
        r"val.txt: the split has no image",
    ),
    "no object": (
        lambda root: [change(xml(root, x), "object>", "thing>") for x in "cd"],
        r"val.txt: the split has no object",
    ),
    "not XML": (
        lambda root: xml(root, "a").write_text("<annotation>\n<size>\n</annotation>"),
        r"a.xml:3: mismatched tag",
    ),
    "not a number": (
        lambda root: change(xml(root, "a"), "<xmin>41<", "<xmin>4l<"),
        r"a.xml:26: <bndbox/xmin> is '4l', not a number",
    ),
    "two images of one name": (
        lambda root: write_image(root / "JPEGImages/a.png"),
        r"a.png: .*a.jpg has the same name: keep one of them",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_dataset_raises_its_first_problem(root, name):
    break_it, message = BROKEN[name]
    break_it(root)
    # the class that is missing in the class file has an object in three images
    assert_first_problem(root, message, 3 if name == "class not in the class file" else 1)


def test_annotation_without_image_in_a_folder_per_split(root):
    folder = folder_per_split(root)
    (folder / "train" / "a.jpg").unlink()
    with pytest.raises(ValueError, match=r"train/a.xml: there is no image a.\* in .*train"):
        read_all(folder)
    (folder / "train" / "b.xml").unlink()
    assert [p.kind for p in check_dataset(folder).problems] == [
        "annotation without image",
        "image without annotation",
    ]


def test_difficult_objects_are_marked(voc_folder):
    voc_folder({"a": [(*CAT[:2], 1), DOG]}, split="train")
    root = voc_folder(VAL, split="val")
    flags = [a["difficult"] for a in read_all(root)["train"][0]["annotations"]]
    assert flags == [1, 0]


@pytest.mark.parametrize("flag", ["2", "-1", "0.5"])
def test_other_numbers_of_difficult_are_told(voc_folder, flag):
    voc_folder({"a": [(*CAT[:2], 1), DOG]}, split="train")
    root = voc_folder(VAL, split="val")
    change(xml(root, "a"), "<difficult>1<", f"<difficult>{flag}<")
    repairs = check_dataset(root).repairs
    assert [repair.text for repair in repairs] == [f"<difficult> is {flag!r}: it is read as 1"]


def test_digits_with_an_underscore_are_no_number(voc_folder):
    voc_folder(TRAIN, split="train")
    root = voc_folder(VAL, split="val")
    change(xml(root, "a"), "<xmax>30<", "<xmax>3_0<")
    assert_first_problem(root, "<bndbox/xmax> is '3_0', not a number")


def test_a_file_name_of_two_images_is_a_problem(voc_folder):
    voc_folder({"cam1_0": [CAT], "cam2_0": [DOG]}, split="train")
    root = voc_folder(VAL, split="val")
    for camera in ("cam1", "cam2"):
        (root / "JPEGImages" / camera).mkdir()
        image = root / "JPEGImages" / f"{camera}_0.jpg"
        image.rename(root / "JPEGImages" / camera / "0.jpg")
        change(xml(root, f"{camera}_0"), f"{camera}_0.jpg", "0.jpg")
    with pytest.raises(ValueError, match="cam2/0.jpg: .*cam1/0.jpg has the same name"):
        read_all(root)


def test_images_and_annotations_in_sibling_folders_belong_together(voc_folder):
    source = voc_folder({"cam1": [CAT], "cam2": [DOG]})
    root = source.parent / "cameras"
    for camera in ("cam1", "cam2"):
        for folder, file in (("JPEGImages", "jpg"), ("Annotations", "xml")):
            target = root / camera / file / f"0.{file}"
            target.parent.mkdir(parents=True)
            (source / folder / f"{camera}.{file}").rename(target)
    dataset = CustomDataset(root)
    records = [r for split in dataset.splits for r in dataset.read(split).records]
    for record in records:
        camera = record["file_name"].split("/")[-3]
        assert record["annotations"][0]["category_id"] == int(camera == "cam2")
    assert len(records) == 2


def test_the_suffix_in_the_file_name_counts(voc_folder):
    voc_folder({"xml1": [CAT, DOG]}, split="train")
    root = voc_folder(VAL, split="val")
    images = root / "JPEGImages"
    (images / "xml1.jpg").rename(images / "photo.jpg")
    write_image(images / "photo.png")
    change(xml(root, "xml1"), "xml1.jpg", "photo.png")
    assert read_all(root)["train"][0]["file_name"] == str(images / "photo.png")
