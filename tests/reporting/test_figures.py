from matplotlib.figure import Figure

from flowdet.reporting.figures import save_figure


def test_png_and_svg_are_reproducible(tmp_path):
    contents = []
    for folder in ("a", "b"):
        figure = Figure()
        figure.subplots().plot([1, 2], label="line")
        paths = save_figure(figure, tmp_path / folder / "curve")
        assert [path.name for path in paths] == ["curve.png", "curve.svg"]
        contents.append([path.read_bytes() for path in paths])
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == [
            "curve.png",
            "curve.svg",
        ]
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"\x89PNG") and b"<svg" in contents[0][1]


def test_names_of_the_user_are_not_formulas(tmp_path):
    name = r"$\frac{$"
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 10], [0, 1], label=name)
    axes.set(title=name, xlabel=name, ylabel=name, xscale="log")
    axes.set_yticks([0, 1], [name, "plain"])
    axes.legend()
    figure.legend()
    _, svg = save_figure(figure, tmp_path / "curve")
    # title, two axes, tick and two legends; matplotlib names the texts in comments
    assert svg.read_text().count(f"<!-- {name} -->") == 6
    # the numbers of the logarithmic axis
    assert r"<!-- $\mathdefault{10^{0}}$ -->" in svg.read_text()
