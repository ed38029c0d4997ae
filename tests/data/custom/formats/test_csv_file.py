"""Reading csv files: columns, delimiters, splits, class lists, and errors for bad rows."""

import re

import pytest

from flowdet.data.custom import CustomDataset
from flowdet.data.custom.formats.csv_file import CSV
from tests.data.custom.example_datasets import write_image
from tests.data.custom.formats.reading import (
    HEIGHT,
    WIDTH,
    find,
    objects,
    problem_of,
    random_boxes,
    read,
    texts,
)

READER = CSV()
BOX = (4, 6, 20, 30)
CAT = ("cat", BOX)
# the header and a row
FORMS = {
    "keras-retinanet": ("", "{path},{x1},{y1},{x2},{y2},{label}"),
    "header": ("path,x1,y1,x2,y2,class", "{path},{x1},{y1},{x2},{y2},{label}"),
    "capitals": (
        "Image_Path, X_Min, Y_Min, X_Max, Y_Max, Class_Name",
        "{path}, {x1}, {y1}, {x2}, {y2}, {label}",
    ),
    "from 0": ("image,x0,y0,x1,y1,label", "{path},{x1},{y1},{x2},{y2},{label}"),
    "TensorFlow": (
        "filename,width,height,class,xmin,ymin,xmax,ymax",
        "{path},64,48,{label},{x1},{y1},{x2},{y2}",
    ),
    "TensorFlow without header": ("", "{path},64,48,{label},{x1},{y1},{x2},{y2}"),
    "VoTT": (
        '"image","xmin","ymin","xmax","ymax","label"',
        '"{path}",{x1},{y1},{x2},{y2},"{label}"',
    ),
    "other order": (
        "ImageID,Source,LabelName,XMin,XMax,YMin,YMax",
        "{path},x,{label},{x1},{x2},{y1},{y2}",
    ),
    "index": (",filename,left,top,right,bottom,label", "0,{path},{x1},{y1},{x2},{y2},{label}"),
    "semicolons": ("path;x1;y1;x2;y2;class", "{path};{x1};{y1};{x2};{y2};{label}"),
    "semicolons without header": ("", "{path};{x1};{y1};{x2};{y2};{label}"),
    "tabs": ("path\tx1\ty1\tx2\ty2\tclass", "{path}\t{x1}\t{y1}\t{x2}\t{y2}\t{label}"),
    "bars": ("path|x1|y1|x2|y2|class", "{path}|{x1}|{y1}|{x2}|{y2}|{label}"),
}


def row(path="a.png", box=BOX, label="cat", form="{path},{x1},{y1},{x2},{y2},{label}"):
    x1, y1, x2, y2 = box
    return form.format(path=path, x1=x1, y1=y1, x2=x2, y2=y2, label=label)


def write(folder, *rows, file="annotations.csv", files=("a.png",), encoding="utf-8", end="\n"):
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{x}{end}" for x in rows).encode(encoding))
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name)


def files_of(splits):
    return {split: list(objects(raw)) for split, raw in splits.items()}


# Columns


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_random_boxes_are_read_exactly(form, seed, tmp_path):
    header, line = FORMS[form]
    boxes = random_boxes(seed)
    write(tmp_path, *[header] * bool(header), *(row(box=box, form=line) for box in boxes))
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"]) == {"a.png": [("cat", box) for box in boxes]}
    assert not findings.problems and not findings.repairs
    size = (48, 64) if "TensorFlow" in form else None
    assert [(x.size, x.image_id) for x in splits["all"].images] == [(size, "a")]
    assert splits["all"].origin == 0 and splits["all"].categories is None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("form", "split"),
    [
        ("TRAIN,gs://bucket/{path},{label},{x1},{y1},{x2},{y1},{x2},{y2},{x1},{y2}", "train"),
        ("VALIDATION,{path},{label},{x1},{y1},,,{x2},{y2},,", "val"),
        ("UNASSIGNED,{path},{label},{x1},{y1},,,{x2},{y2},,", "all"),
        ("{path},{label},{x1},{y1},,,{x2},{y2},,", "all"),
    ],
)
def test_automl(form, split, seed, tmp_path):
    """AutoML writes fractions of the image; the box of the whole image is 0, 0, 1, 1."""
    boxes = [*random_boxes(seed), (0, 0, WIDTH, HEIGHT)]
    scaled = [(a / WIDTH, b / HEIGHT, c / WIDTH, d / HEIGHT) for a, b, c, d in boxes]
    write(tmp_path, *(row(box=box, form=form) for box in scaled))
    if split == "val":
        write(tmp_path, "TRAIN,b.png,cat,0,0,,,1,1,,", files=["b.png"], file="more.csv")
        text = (tmp_path / "more.csv").read_text()
        (tmp_path / "more.csv").unlink()
        with (tmp_path / "annotations.csv").open("a") as file:
            file.write(text)
    splits, findings = read(READER, tmp_path)
    (image,) = splits[split].images
    assert image.measured and image.size == (HEIGHT, WIDTH)
    for obj, box in zip(image.objects, boxes, strict=True):
        assert obj.corners == pytest.approx(box, abs=1e-6)
    assert not findings.problems


def test_fractions_under_a_header(tmp_path):
    form = "image,xmin,ymin,xmax,ymax,label"
    write(tmp_path, form, row(box=(0.25, 0.25, 0.5, 0.5)), row(box=(0, 0, 1, 1)))
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"]) == {"a.png": [("cat", (16, 12, 32, 24)), ("cat", (0, 0, 64, 48))]}
    assert [x.kind for x in findings.repairs] == ["normalized coordinates"]
    assert not findings.problems


def test_pixels_between_fractions(tmp_path):
    write(tmp_path, *[row(box=(0.1, 0.1, 0.5, 0.5))] * 3, row())
    assert re.search(r"csv:4: 4, 6, 20, 30 are not fractions", problem_of(READER, tmp_path))


def test_a_box_of_one_pixel_between_pixels(tmp_path):
    write(tmp_path, row(box=(0, 0, 1, 1)), row())
    assert objects(read(READER, tmp_path)[0]["all"]) == {"a.png": [("cat", (0, 0, 1, 1)), CAT]}


def test_unreadable_image_of_fractions(tmp_path):
    write(tmp_path, *(row(x, (0, 0, 1, 1)) for x in ("a.png", "b.png")), files=["a.png"])
    (tmp_path / "b.png").write_bytes(b"<html>")
    assert re.search(r"unreadable image: .*b\.png: ", problem_of(READER, tmp_path))
    assert files_of(read(READER, tmp_path)[0]) == {"all": ["a.png"]}


@pytest.mark.parametrize(
    ("header", "missing"),
    [
        ("path,x1,y1,x2,class", "y2"),
        ("image,xmin,ymin,xmax,ymax", "label"),
        ("image,x,y,w,h,class", "x1, y1, x2, y2"),
        ("image_id,width,height,bbox,class", "x1, y1, x2, y2"),
        ("path,x1,y1,x2,y2,x3,y3,x4,y4,class", "x1, y1, x2, y2"),
        ("path,xmin,ymin,width,height,class", "x2, y2"),
        ("image_id,width,height,bbox,source", "x1, y1, x2, y2, label"),
    ],
)
def test_missing_columns(header, missing, tmp_path):
    write(tmp_path, header, ",".join(["a.png"] + ["1"] * header.count(",")))
    message = rf"annotations\.csv:1: the header has no column for {missing}: name the columns path"
    assert re.search(message, problem_of(READER, tmp_path))


@pytest.mark.parametrize(
    "rows",
    [
        ["id,name", "1,cat"],
        ["epoch,loss", "1,0.5"],
        ["image,label", "a.png,cat"],
        ["a,b,c,d,e,f", "1,2,3,4,5,6"],
        ["cat,1,2,3,4,dog"],
        [],
    ],
)
def test_files_without_boxes_are_no_dataset(rows, tmp_path):
    write(tmp_path, *rows)
    assert find(READER, tmp_path) is None


# Rows


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(box=("a", 2, 3, 4)), "x1 is 'a', not a number"),
        (row(box=(1, 2, "nan", 4)), "x2 is 'nan'"),
        (row(box=(1, 2, 3, "inf")), "y2 is 'inf'"),
        (row(box=(1, "1_0", 3, 4)), "y1 is '1_0'"),
        (row(box=(1, "", 3, 4)), "the row has no y1"),
        (row(label=""), "the row has no class"),
        (row(box=("", "", "", "")), "the row has no x1"),
        ("a.png,1,2,3", "the row has 4 fields, not 6: a.png,1,2,3"),
        ("cat", "the row has 1 fields, not 6"),
        ("a.png,1,2,3,4,cat,dog", "the row has 7 fields, not 6"),
        ('a.png,1,2,3,4,"cat', "a field has a line break: close its quotes|not csv"),
        (",1,2,3,4,cat", "the row has no image"),
        ("lost.png,1,2,3,4,cat", "missing image: .*there is no image lost.png"),
    ],
)
def test_unusable_rows_are_problems(bad, message, tmp_path):
    write(tmp_path, row(), row(), bad, row())
    problem = problem_of(READER, tmp_path)
    assert re.search(message, problem) and "annotations.csv:3: " in problem


@pytest.mark.parametrize(
    "bad", [row("b.png", ("x", 2, 3, 4)), "b.png,1,2,3", row("b.png", label="")]
)
def test_image_with_an_unusable_row_is_not_background(bad, tmp_path):
    write(tmp_path, row(), row(), bad, files=["a.png", "b.png"])
    assert files_of(read(READER, tmp_path)[0]) == {"all": ["a.png"]}


@pytest.mark.parametrize("empty", ["b.png,,,,,", "b.png", "b.png,,"])
def test_rows_without_values_are_background(empty, tmp_path):
    write(tmp_path, row(), row(), empty, files=["a.png", "b.png"])
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"]) == {"a.png": [CAT, CAT], "b.png": []}
    assert splits["all"].annotated and not findings.problems


@pytest.mark.parametrize("extra", ["", "  ", ",,,,,"])
def test_empty_rows_and_extra_delimiters(extra, tmp_path):
    write(tmp_path, row(), extra, row() + ",,", row())
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"]) == {"a.png": [CAT] * 3} and not findings.problems


@pytest.mark.parametrize(
    ("sizes", "kind", "size"),
    [
        (["64,48", "64,48"], None, (48, 64)),
        (["64.0,48.0"], None, (48, 64)),
        ([",48", ",48"], "image size missing", None),
        (["0,0"], "image size missing", None),
        (["x,48"], "image size missing", None),
    ],
)
def test_sizes(sizes, kind, size, tmp_path):
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    write(tmp_path, header, *(f"a.png,{size},cat,4,6,20,30" for size in sizes))
    splits, findings = read(READER, tmp_path)
    assert [x.size for x in splits["all"].images] == [size]
    assert [x.kind for x in findings.repairs] == [kind] * bool(kind) and not findings.problems


def test_sizes_that_differ(tmp_path):
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    write(tmp_path, header, "a.png,64,48,cat,4,6,20,30", "a.png,48,64,cat,4,6,20,30")
    assert re.search(r"csv:3: the size of a\.png differs.*line 2", problem_of(READER, tmp_path))


# Files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("header", [[], ["path,x1,y1,x2,y2,class"]])
def test_encodings_and_line_ends(encoding, end, header, tmp_path):
    write(tmp_path, *header, row(label="Kätze"), encoding=encoding, end=end)
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"]) == {"a.png": [("Kätze", BOX)]} and not findings.problems


@pytest.mark.parametrize("start", ["sep=;", "# exported by a script", "# a; b\n# c"])
def test_lines_before_the_first_row(start, tmp_path):
    write(tmp_path, start, "path;x1;y1;x2;y2;class", row(form="{path};{x1};{y1};{x2};{y2};{label}"))
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"]) == {"a.png": [CAT]} and not findings.problems


def test_image_whose_name_starts_like_a_comment(tmp_path):
    write(tmp_path, row("# 1.png"), row("# 2.png"), files=["# 1.png", "# 2.png"])
    splits, findings = read(READER, tmp_path)
    assert objects(splits["all"]) == {"# 1.png": [CAT], "# 2.png": [CAT]} and not findings.problems


def test_decimal_comma(tmp_path):
    write(tmp_path, "path;x1;y1;x2;y2;class", "a.png;4,5;6;20;30;cat")
    message = r"csv:2: x1 is '4,5', not a number: use a decimal point"
    assert re.search(message, problem_of(READER, tmp_path))


def test_unknown_encoding(tmp_path):
    write(tmp_path, row(), row(label="Kätze"), encoding="latin-1")
    assert re.search(r"annotations\.csv:2: .*encoding", problem_of(READER, tmp_path))


@pytest.mark.parametrize(
    ("name", "files", "repaired"),
    [
        ("a.png", ["a.png"], False),
        ("images/a.png", ["images/a.png"], False),
        ("a.png", ["images/a.png"], False),
        ("a.png", ["pictures/a.png"], False),
        ("a", ["images/a.png"], False),
        ("v1.2", ["images/v1.2.png"], False),
        ("images\\a.png", ["images/a.png"], True),
        ("C:\\Users\\me\\a.png", ["images/a.png"], True),
        ("/home/me/images/a.png", ["images/a.png"], True),
        ("A.png", ["images/a.png"], True),
    ],
)
def test_names_of_images(name, files, repaired, tmp_path):
    write(tmp_path, "image,xmin,ymin,xmax,ymax,label", row(name), files=files)
    splits, findings = read(READER, tmp_path)
    assert [x.path for x in splits["all"].images] == [tmp_path / files[0]]
    assert not findings.problems
    assert [x.kind for x in findings.repairs] == ["file name adapted"] * repaired


def test_two_names_of_one_file_are_one_image(tmp_path):
    write(tmp_path, row("a.png"), row("./a.png", label="dog"))
    splits, _ = read(READER, tmp_path)
    assert objects(splits["all"]) == {"a.png": [CAT, ("dog", BOX)]}


def test_ids_are_unique(tmp_path):
    names = ["cam1/a.png", "cam2/a.png", "cam2/a.jpg"]
    write(tmp_path, *map(row, names), files=names)
    ids = [x.image_id for x in read(READER, tmp_path)[0]["all"].images]
    assert ids == ["cam1/a.png", "cam2/a.png", "cam2/a.jpg"]


# Splits


@pytest.mark.parametrize(
    "file",
    ["{}.csv", "{}_labels.csv", "annotations_{}.csv", "annotations/{}.csv", "{}/_annotations.csv",
     "{}/boxes.csv", "data/{}.tsv"],
)  # fmt: skip
@pytest.mark.parametrize("images", ["{}.png", "images/{}.png", "{}/{}.png", "images/{}/{}.png"])
def test_a_file_per_split(file, images, tmp_path):
    for split in ("train", "val"):
        path = images.format(split, split)
        write(tmp_path, row(f"{split}.png"), file=file.format(split), files=[path])
    splits, findings = read(READER, tmp_path)
    assert {split: [x.path for x in raw.images] for split, raw in splits.items()} == {
        split: [tmp_path / images.format(split, split)] for split in ("train", "val")
    }
    assert not findings.problems


def test_same_names_in_the_folders_of_splits(tmp_path):
    for split in ("train", "val"):
        write(tmp_path, row("0.png"), file=f"{split}.csv", files=[f"{split}/0.png"])
    splits, _ = read(READER, tmp_path)
    assert [raw.images[0].path.parent.name for raw in splits.values()] == ["train", "val"]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("split", ("train", "val", "test")),
        ("set", ("TRAIN", "VALIDATION", "TEST")),
        ("ml_use", ("training", "validation", "test")),
    ],
)
def test_splits_in_a_column(column, values, tmp_path):
    names = ["a.png", "b.png", "c.png"]
    rows = [f"{value},{row(name)}" for value, name in zip(values, names, strict=True)]
    write(tmp_path, f"{column},path,x1,y1,x2,y2,class", *rows, files=names)
    splits, findings = read(READER, tmp_path)
    assert files_of(splits) == {"train": ["a.png"], "val": ["b.png"], "test": ["c.png"]}
    assert not findings.problems


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("train", "val", ""), "csv:4: .*c.png has the split ''"),
        (("train", "val", "fold3"), "csv:4: .*c.png has the split 'fold3'"),
    ],
)
def test_image_without_split_next_to_splits(values, message, tmp_path):
    names = ["a.png", "b.png", "c.png"]
    rows = [f"{value},{row(name)}" for value, name in zip(values, names, strict=True)]
    write(tmp_path, "split,path,x1,y1,x2,y2,class", *rows, files=names)
    assert re.search(message, problem_of(READER, tmp_path))


def test_image_in_two_splits(tmp_path):
    rows = [f"{split},{row(name)}" for split, name in (("train", "a.png"), ("val", "a.png"))]
    write(tmp_path, "split,path,x1,y1,x2,y2,class", *rows)
    assert re.search(r"csv:3: a\.png is in val and in train", problem_of(READER, tmp_path))


@pytest.mark.parametrize("with_folders", [True, False])
def test_splits_by_the_folders_of_images(with_folders, tmp_path):
    files = ["images/train/a.png", "images/val/b.png"]
    names = files if with_folders else ["a.png", "b.png"]
    write(tmp_path, *map(row, names), files=files)
    assert files_of(read(READER, tmp_path)[0]) == {"train": ["a.png"], "val": ["b.png"]}


@pytest.mark.parametrize(
    "rows", [["image", "c.png"], ["c.png"], ["path,width,height", "c.png,64,48"]]
)
def test_test_split_without_boxes(rows, tmp_path):
    for split in ("train", "val"):
        write(tmp_path, row(f"{split}.png"), file=f"{split}.csv", files=[f"{split}.png"])
    write(tmp_path, *rows, file="test.csv", files=["c.png"])
    splits, findings = read(READER, tmp_path)
    assert objects(splits["test"]) == {"c.png": []} and not splits["test"].annotated
    assert not findings.problems


def test_file_of_all_images_next_to_files_of_splits(tmp_path):
    for name in ("train", "val"):
        write(tmp_path, row(f"{name}.png"), file=f"{name}.csv", files=[f"{name}.png"])
    write(tmp_path, row("train.png"), row("val.png"), file="all_labels.csv")
    assert files_of(read(READER, tmp_path)[0]) == {"train": ["train.png"], "val": ["val.png"]}


def test_several_files_of_a_split(tmp_path):
    for file in ("train.csv", "train_labels.csv", "val.csv"):
        write(tmp_path, row(), file=file)
    with pytest.raises(ValueError, match=r"several csv files for train: .*train\.csv"):
        find(READER, tmp_path)


# Classes


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        (["dog,0", "cat,1", "cow,2"], "classes.csv"),
        (["cow,2", "cat,1", "dog,0"], "class_list.csv"),
        (["name,id", "dog,0", "cat,1", "cow,2"], "labels.csv"),
        (["id,name", "0,dog", "1,cat", "2,cow"], "classes.csv"),
        (["dog", "cat", "cow"], "classes.txt"),
    ],
)
def test_class_lists(rows, name, tmp_path):
    write(tmp_path, row(), file="boxes.csv")
    write(tmp_path, *rows, file=name)
    splits, findings = read(READER, tmp_path)
    categories = splits["all"].categories
    assert [x.name for x in categories] == ["dog", "cat", "cow"]
    assert [x.id for x in categories] == ([None] * 3 if name == "classes.txt" else [0, 1, 2])
    assert not findings.problems and name in splits["all"].class_source


def test_class_ids_instead_of_names(tmp_path):
    write(tmp_path, row(label=1))
    write(tmp_path, "dog,0", "cat,1", file="classes.csv")
    assert objects(read(READER, tmp_path)[0]["all"]) == {"a.png": [CAT]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["dog,0", "cat,1", "cat,2"], r"classes\.csv:3: class 'cat'"),
        (["dog,0", "cat,1", "cow,1"], r"classes\.csv:3: class 'cow' or its id 1"),
        (["dog,0", "cat,1", "cow,x"], r"classes\.csv:3: cow,x is not a class"),
        (["dog,0", "cat,1", "cow"], r"classes\.csv:3: cow is not a class"),
        ([], r"classes\.csv: the file contains no class"),
    ],
)
def test_unusable_class_lists(rows, message, tmp_path):
    write(tmp_path, row(), file="boxes.csv")
    write(tmp_path, *rows, file="classes.csv")
    assert re.search(message, problem_of(READER, tmp_path))


def test_class_that_is_not_in_the_list(tmp_path):
    write(
        tmp_path, row(), row(label="bird"), row("b.png"), file="boxes.csv", files=["a.png", "b.png"]
    )
    write(tmp_path, "dog,0", "cat,1", file="classes.csv")
    with pytest.raises(ValueError, match=r"boxes\.csv:2: class 'bird' is unknown"):
        dataset = CustomDataset(tmp_path)
        for split in dataset.splits:
            dataset.read(split)


def test_findings_are_lines(tmp_path):
    write(tmp_path, row(), "b.png,1,2,3", row(box=("x", 1, 2, 3)), row("lost.png"), row())
    _, findings = read(READER, tmp_path)
    assert len(findings.problems) == 3
    assert all("\n" not in text for text in texts(findings.problems))
