"""Downloads the files of trained models into iopath's cache."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import get_cache_dir

from flowdet.config.errors import UsageError
from flowdet.engine.downloads import quiet_downloads
from flowdet.engine.weight_files import check_url


def is_url(path: str | Path) -> bool:
    """Whether a string is an http or https URL."""
    return str(path).startswith(("http://", "https://"))


def fetch(url: str) -> Path:
    """Downloads a file once; later calls find it in the cache and need no network.

    The cache is the folder `$FVCORE_CACHE`, by default `~/.torch/iopath_cache`. It has a subfolder
    per host. Delete a cached file to download it again.

    Args:
        url: an http or https URL; its query is left out.

    Returns:
        The path of the local file.

    Raises:
        FileNotFoundError: the file cannot be downloaded, or the server sent a web page instead.
        ValueError: see `check_url`.
    """
    check_url(url)
    parts = urlsplit(url)._replace(query="", fragment="")
    # iopath's own folders leave out the host: two hosts could have a file of the same path
    folder = Path(get_cache_dir()) / parts.netloc.replace(":", "_")
    try:
        with quiet_downloads():
            path = Path(PathManager.get_local_path(parts.geturl(), cache_dir=str(folder)))
    except (OSError, HTTPException) as error:
        raise FileNotFoundError(f"cannot download {url} ({error}): check the URL") from error
    with path.open("rb") as file:
        is_page = file.read(100).lstrip().lower().startswith((b"<!doctype", b"<html"))
    if is_page:
        path.unlink()
        raise FileNotFoundError(f"{url} is a web page: give the URL of the file itself")
    return path


def run_urls(url: str) -> tuple[str, str]:
    """Returns the URLs of a run's config and of its checkpoint.

    Args:
        url: URL of the run's folder (ending in /), of its config.yaml or of one of its checkpoints
            (.pth, .safetensors). For a folder or config the checkpoint is `model_final.pth`.

    Raises:
        ValueError: the URL has another form.
    """
    path = PurePosixPath(urlsplit(url).path)
    if path.suffix in (".pth", ".safetensors"):
        return urljoin(url, "config.yaml"), url
    if path.suffix in (".yaml", ".yml"):
        return url, urljoin(url, "model_final.pth")
    if urlsplit(url).path.endswith("/"):
        return urljoin(url, "config.yaml"), urljoin(url, "model_final.pth")
    raise UsageError(
        f"{url} is not the URL of a run folder (ending in /), a config (.yaml) or a checkpoint "
        "(.pth, .safetensors)"
    )
