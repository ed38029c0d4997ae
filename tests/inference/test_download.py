"""Downloads: URLs of runs, the cache, and clear errors."""

import urllib.error
from urllib import request

import pytest

from flowdet.inference.download import fetch, is_url, run_urls


@pytest.fixture
def internet(monkeypatch, tmp_path):
    """Replaces downloads: a dict from URL to content; other URLs are not found."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    files = {}

    def retrieve(url, filename, reporthook=None):
        if url not in files:
            raise urllib.error.HTTPError(url, 404, "File not found", None, None)
        with open(filename, "w", encoding="utf-8") as file:
            file.write(files[url])
        return filename, None

    monkeypatch.setattr(request, "urlretrieve", retrieve)
    return files


def test_what_is_a_url(tmp_path):
    assert is_url("http://host/a.pth") and is_url("https://host/a.pth")
    assert not is_url("runs/http/a.pth") and not is_url(tmp_path)


@pytest.mark.parametrize(
    ("url", "checkpoint"),
    [
        ("https://host/runs/a/", "https://host/runs/a/model_final.pth"),
        ("https://host/runs/a/config.yaml", "https://host/runs/a/model_final.pth"),
        ("https://host/runs/a/best.pth", "https://host/runs/a/best.pth"),
    ],
)
def test_config_and_checkpoint_of_a_url(url, checkpoint):
    assert run_urls(url) == ("https://host/runs/a/config.yaml", checkpoint)


def test_other_urls_are_refused():
    with pytest.raises(ValueError, match=r"https://host/runs/a is not .* \(ending in /\)"):
        run_urls("https://host/runs/a")


def test_files_of_two_hosts_do_not_share_a_cache_entry(internet, tmp_path):
    internet["https://one.org/run/config.yaml"] = "one"
    internet["https://two.org/run/config.yaml"] = "two"
    paths = [fetch(f"https://{host}.org/run/config.yaml") for host in ("one", "two")]
    assert [path.read_text() for path in paths] == ["one", "two"]
    assert all(tmp_path / "cache" in path.parents for path in paths)


def test_the_second_fetch_reads_the_cache(internet):
    internet["https://host/a/model.pth"] = "weights"
    path = fetch("https://host/a/model.pth?download=true")
    internet.clear()
    assert fetch("https://host/a/model.pth") == path and path.read_text() == "weights"


def test_a_missing_file_is_an_error_of_one_line(internet):
    with pytest.raises(
        FileNotFoundError, match="cannot download https://host/b.pth .*404"
    ) as error:
        fetch("https://host/b.pth")
    assert "\n" not in str(error.value)


def test_a_server_that_does_not_answer(monkeypatch, tmp_path):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    # port 1 is reserved, so that no server listens there
    with pytest.raises(FileNotFoundError, match="cannot download http://127.0.0.1:1/c.pth"):
        fetch("http://127.0.0.1:1/c.pth")


def test_a_web_page_is_not_kept(internet):
    url = "https://host/blob/config.yaml"
    internet[url] = "\n<!DOCTYPE html><html></html>"
    with pytest.raises(FileNotFoundError, match="is a web page: give the URL of the file"):
        fetch(url)
    internet[url] = "SEED: 1"
    assert fetch(url).read_text() == "SEED: 1"
