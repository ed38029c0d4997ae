"""Malicious and broken XML, JSON and YAML files, and random changes of good ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from tests.cases.coco_writer import write_coco
from tests.cases.tool_cases import write_csv_splits, write_cvat, write_labelme, write_vott_json
from tests.cases.voc_writer import write_voc
from tests.cases.yolo_cases import write_darknet, write_yolo

# writes a good dataset, and the files of it that contain annotations
FORMATS: dict[str, tuple[Callable[[Path], None], str]] = {
    "voc": (write_voc, "Annotations/*.xml"),
    "coco": (write_coco, "**/*.json"),
    "yolo": (write_yolo, "data.yaml"),
    "yolo labels": (write_yolo, "labels/*/*.txt"),
    "darknet": (write_darknet, "**/*.data"),
    "cvat": (lambda folder: write_cvat(folder, divided=True), "*.xml"),
    "labelme": (write_labelme, "**/*.json"),
    "vott": (write_vott_json, "**/*.json"),
    "csv": (write_csv_splits, "*.csv"),
}
# names that a file may give to a class or an image
NAMES = (
    "../x", "/tmp/x", "..", ".", "a/b", "a\\b", "C:\\x", "~", "a$b$c", "$\\frac{$", "{0.__class__}",
    "%s%n", "<script>alert(1)</script>", "&amp;", "'; DROP TABLE", "=cmd|' /C calc'!A0", "\x1b[2J",
    "a\rb", "\u202eabc", "\u200b", "CON", "é", "猫", "x" * 100_000, "-rf", "nan", "null", "None",
)  # fmt: skip
_NUMBERS = (
    *("1e308", "-1e308", "1e400", "9" * 5000, "-0", "nan", "inf", "0x10", "1_000", "1e-400", "''"),
    *("true", "null", "[]", "{}", "٣", "2001-99-99", "1:2:3"),
)
_FRAGMENTS = (
    *("<!ENTITY a 'b'>", "&a;", "<![CDATA[", "]]>", "<!--", "<?php", "</", "/>", "\0", "\ufeff"),
    *(
        "[" * 500,
        "{" * 500,
        '"',
        "'",
        "\\u",
        "\\ud800",
        "&x [*x]",
        "*x",
        "<<: *x",
        "!!python/name:os",
    ),
    *(
        "? ",
        "- - -",
        "\t",
        "%YAML 9.9\n",
        "---\n",
        "...",
        "|2\n",
        "\r\n",
        "\u2028",
        "Infinity",
        "#",
    ),
)


def changed(data: bytes, rng: random.Random) -> bytes:
    """One random change of a file: bytes that are missing, repeated, replaced or inserted."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((1, 2, 8, 50, 10_000)))
    texts = [*_NUMBERS, *_FRAGMENTS, *NAMES]
    new = rng.choice(
        (
            lambda: b"",
            lambda: data[start:end] * rng.choice((2, 100)),
            lambda: rng.randbytes(end - start),
            lambda: rng.choice(texts).encode(),
            lambda: bytes(x ^ (1 << rng.randrange(8)) for x in data[start:end][:4]),
        )
    )()
    return data[:start] + new + data[end if rng.random() < 0.7 else start :]


def with_value(data: bytes, rng: random.Random) -> bytes:
    """One value of a file, between quotes, tags, spaces or commas, replaced by an odd one."""
    separators = b"\"'<>,: \n="
    starts = [
        i for i in range(1, len(data)) if data[i - 1] in separators and data[i] not in separators
    ]
    if not starts:
        return data
    start = rng.choice(starts)
    end = next((i for i in range(start, len(data)) if data[i] in separators), len(data))
    return data[:start] + rng.choice([*_NUMBERS, *NAMES]).encode() + data[end:]


def entities(depth: int, width: int) -> str:
    """A document type whose last entity stands for width ** depth characters."""
    lines = ['<!ENTITY e0 "x">']
    for i in range(1, depth):
        lines.append(f'<!ENTITY e{i} "{f"&e{i - 1};" * width}">')
    return f"<!DOCTYPE annotation [{''.join(lines)}]>"


def xml_files(good: str) -> dict[str, bytes]:
    """Malicious versions of an xml file by name."""
    body = good.removeprefix("<?xml version='1.0'?>")
    name = "square" if "square" in body else "label"
    files = {
        "billion laughs": entities(30, 10) + body.replace(name, "&e29;"),
        "quadratic": '<!DOCTYPE annotation [<!ENTITY a "' + "x" * 100_000 + '">]>'
        + body.replace(name, "&a;" * 100),
        "external": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        + body.replace(name, "&x;"),
        "remote": '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd">' + body.replace(name, "&x;"),
        "parameter": '<!DOCTYPE a [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]>' + body,
        "long entity": body.replace(name, f"&{'x' * 1_000_000};"),
        "deep": "<a>" * 200_000 + "</a>" * 200_000,
        "deep in the root": body.replace("<annotation>", "<annotation>" + "<a>" * 10_000, 1),
        "long tag": f"<{'x' * 1_000_000}/>",
        "long attribute": body.replace(">", f" a='{'x' * 1_000_000}'>", 1),
        "many attributes": "<a " + " ".join(f"a{i}='1'" for i in range(50_000)) + "/>",
        "instruction": "<?xml-stylesheet href='http://127.0.0.1:9/'?>" + body,
        "include": body.replace(">", " xmlns:xi='http://www.w3.org/2001/XInclude'>"
                                "<xi:include href='/etc/passwd' parse='text'/>", 1),
        "two roots": body + body,
        "nothing": "",
        "nul": body.replace(name, "a\0b"),
        "number entity": body.replace(name, "&#0;"),
        "large number entity": body.replace(name, "&#x110000;"),
    }  # fmt: skip
    contents = {key: text.encode() for key, text in files.items()}
    for encoding in (
        *("unknown", "idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape"),
        *("utf-7", "hex", "zip", "rot13", "base64", "utf-16", "utf-32", "cp037", "mbcs", "x" * 150),
    ):
        head = f'<?xml version="1.0" encoding="{encoding}"?>'
        contents[f"encoding {encoding[:20]}"] = (head + body).encode()
    contents["utf-32"] = body.encode("utf-32")
    contents["utf-16 half"] = body.encode("utf-16")[:-1]
    contents["latin-1"] = body.replace(name, "é").encode("latin-1")
    for number in ("1e308", "-1e308", "1e400", "9" * 400, "nan", "inf", "0", "-1"):
        contents[f"width {number[:8]}"] = body.replace("<width>64<", f"<width>{number}<").encode()
        contents[f"xmax {number[:8]}"] = body.replace("<xmax>22<", f"<xmax>{number}<").encode()
    return contents


def json_files(good: str) -> dict[str, bytes]:
    """Malicious versions of a json file by name."""
    files = {
        "deep list": "[" * 200_000,
        "deep object": '{"a":' * 100_000,
        "deep value": good.replace("{", '{"x":' + "[" * 50_000 + "]" * 50_000 + ",", 1),
        "long number": good.replace(": 1", ": " + "9" * 100_000, 1),
        "large number": good.replace(": 1", ": 1e400", 1),
        "not a number": good.replace(": 1", ": NaN", 1),
        "infinite": good.replace(": 1", ": -Infinity", 1),
        "surrogate": good.replace("square", "\\ud800"),
        "nul": good.replace("square", "\\u0000"),
        "long text": good.replace("square", "x" * 1_000_000),
        "same key": good.replace("{", '{"images": 1, "shapes": 2,', 1),
        "comment": good.replace("{", "{ // comment\n", 1),
        "two values": good + good,
        "only a text": '"text"',
        "only a number": "1",
        "only a list": "[{}]",
        "nothing": "",
        "prototype": good.replace("{", '{"__proto__": {}, "__class__": 1,', 1),
    }
    contents = {key: text.encode() for key, text in files.items()}
    contents |= {"utf-32": good.encode("utf-32"), "utf-16 half": good.encode("utf-16")[:-1]}
    contents |= {"bytes": b"\xff\xfe\xff", "mark": "\ufeff\ufeff".encode() + good.encode()}
    return contents


def aliases(depth: int, width: int) -> str:
    """Lines of YAML whose last value stands for width ** depth values."""
    lines = ["a0: &a0 [x]"]
    for i in range(1, depth):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]")
    return "\n".join(lines) + "\n"


def merges(depth: int) -> str:
    """Lines of YAML whose last mapping merges 2 ** depth others."""
    lines = ["m0: &m0 {a: 1}"]
    lines += [f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}" for i in range(1, depth)]
    return "\n".join(lines) + "\n"


def yaml_files(good: str) -> dict[str, bytes]:
    """Malicious versions of a YAML file by name; a tag that ran would create no file."""
    tags = {
        "new": "!!python/object/new:os.system [true]",
        "apply": "!!python/object/apply:os.system [true]",
        "apply args": "!!python/object/apply:subprocess.check_output {args: [true]}",
        "name": "!!python/name:os.system",
        "module": "!!python/module:os",
        "object": "!!python/object:collections.OrderedDict {}",
        "tuple": "!!python/tuple [1, 2]",
        "own": "!own x",
        "global": "!<tag:yaml.org,2002:python/object/new:os.system> [true]",
        "int": "!!int abc",
        "empty int": "!!int ''",
        "float": "!!float abc",
        "bool": "!!bool abc",
        "binary": "!!binary é",
        "timestamp": "!!timestamp abc",
        "date": "2001-99-99",
        "long int": "9" * 10_000,
        "set": "!!set {a, b}",
        "omap": "!!omap [a]",
        "minutes": "99999:" * 50 + "1",
    }
    files = {f"tag {name}": f"{good}x: {value}\n" for name, value in tags.items()}
    files |= {f"tag {name} in SEED": f"SEED: {value}\n{good}" for name, value in tags.items()}
    files |= {
        "aliases": aliases(30, 10) + good,
        "aliases in a key": aliases(30, 10) + good + "? *a29\n: 1\n",
        "merges": merges(40) + good,
        "wide aliases": "a: &a [" + "x, " * 50_000 + "]\nb: [" + "*a, " * 50_000 + "]\n" + good,
        "itself": "a: &a [*a]\n" + good,
        "itself as a key": "&a ? *a\n: 1\n",
        "deep": "[" * 100_000,
        "deep block": "\n".join("  " * i + "a:" for i in range(500)),
        "deep dashes": "- " * 10_000,
        "deep braces": "{a: " * 10_000,
        "many values": "a: [" + "1," * 300_000 + "]",
        "long": "# comment\n" * 500_000 + good,
        "long text": good + "a: " + "x" * 1_000_000 + "\n",
        "long key": good + "x" * 10_000 + ": 1\n",
        "list as a key": good + "? [a, b]\n: 1\n",
        "null as a key": good + "~: 1\n",
        "number as a key": good + "1: 1\n",
        "date as a key": good + "2001-01-01: 1\n",
        "two documents": good + "---\n" + good,
        "directive": "%YAML 9.9\n---\n" + good,
        "tag directive": "%TAG ! tag:yaml.org,2002:python/object/new:\n---\nx: !os.system [true]\n",
        "tab": "\t" + good,
        "only a text": "text",
        "only a list": "[1, 2]",
        "nothing": "",
        "unknown alias": good + "x: *unknown\n",
        "open quote": good + "x: 'abc\n",
        "base": "_BASE_: http://127.0.0.1:9/x.yaml\n" + good,
        "base of all": "_BASE_: /etc/passwd\n" + good,
        "base is a number": "_BASE_: 1\n" + good,
        "bases": "_BASE_: [[a], {b: c}]\n" + good,
        "base itself": "_BASE_: bad.yaml\n" + good,
        "base of a device": "_BASE_: /dev/zero\n" + good,
    }  # fmt: skip
    contents = {key: text.encode() for key, text in files.items()}
    contents |= {"nul": b"a: \0\n", "bytes": b"a: \xff\xfe\n", "utf-32": good.encode("utf-32")}
    return contents | {"utf-16 half": good.encode("utf-16")[:-1]}
