"""Files of the named data sets: where they may lie, what they must hold, where they come from."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ZooError

__all__ = ["File", "cache_folder", "find", "locate"]

#: How an address begins that nobody on the way can answer for.
SAFE = "https://"


@dataclass(frozen=True)
class File:
    """One file of a data set.

    Attributes:
        path: where it lies below ``ZOO_DATA`` and below the cache, with ``/``.
        sha256: its checksum, in hexadecimal.
        size: its length in bytes, to tell a file cut short from a wrong one.
        urls: where it can be had, tried in turn; empty if nowhere in this form.
    """

    path: str
    sha256: str
    size: int
    urls: tuple[str, ...] = ()


def cache_folder() -> Path:
    """The folder downloads are kept in: ``ZOO_CACHE``, or the operating system's cache folder."""
    own = os.environ.get("ZOO_CACHE")
    if own:
        return Path(own).expanduser()
    import pooch

    return Path(pooch.os_cache("latent-zoo"))


def _user_folder() -> Path | None:
    named = os.environ.get("ZOO_DATA")
    return Path(named).expanduser() if named else None


def find(forms: Sequence[File]) -> Path | None:
    """The first of ``forms`` that exists, in ``ZOO_DATA`` before the cache; checksums are not looked at."""
    for root in (_user_folder(), cache_folder()):
        for file in forms:
            if root is not None and (root / file.path).is_file():
                return root / file.path
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _difference(path: Path, file: File) -> str | None:
    """What is wrong with the file at ``path``, or None if it is ``file``."""
    size = path.stat().st_size
    if size < file.size:
        return f"is cut short: expected {file.size} bytes with sha256 {file.sha256}, got {size} bytes"
    got = _sha256(path)
    return None if got == file.sha256 else f"is another file: expected sha256 {file.sha256}, got {got}"


def locate(name: str, forms: Sequence[File], otherwise: str = "") -> Path:
    """A verified copy of one file of data set ``name``: from ``ZOO_DATA``, the cache, or a download.

    Args:
        name: the data set, for the error text.
        forms: the same content in every form we can read (compressed, plain), the preferred one first.
        otherwise: a data set of the same kind that needs no file, if there is one.

    Raises:
        ZooError: ``ZOO_DATA`` is no folder, a file in it has the wrong checksum, or the download failed.
    """
    user = _user_folder()
    if user is not None:
        if not user.is_dir():
            raise ZooError(f"ZOO_DATA should name a folder, got {str(user)!r}, which is none. Correct it or unset it.")
        for file in forms:
            path = user / file.path
            if path.is_file():
                wrong = _difference(path, file)
                if wrong:
                    raise ZooError(f"{path} {wrong}. Put the original in its place, or unset ZOO_DATA.")
                return path
    cache = cache_folder()
    for file in forms:
        path = cache / file.path
        if path.is_file() and _difference(path, file) is None:
            return path
    return _download(name, forms, cache, otherwise)


def _download(name: str, forms: Sequence[File], cache: Path, otherwise: str) -> Path:
    place = cache / forms[0].path
    fix = f"Put the file at {place}, or set ZOO_DATA to a folder that holds {forms[0].path}."
    fix += f" {otherwise!r} is of the same kind and needs no file." if otherwise else ""
    failure = None
    for file in forms:
        for url in file.urls:
            try:
                return _retrieve(url, cache / file.path, file.sha256)
            except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
                # The first address is the one to report: the others are only there for when it is gone.
                failure = failure or f"{url} gave {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if failure is None:
        raise ZooError(f"Data set {name!r} has no download with a known checksum and was not found here. {fix}")
    raise ZooError(f"Data set {name!r} could not be downloaded: {failure}. {fix}")


def _refuse_plain(response: Any, *_: Any, **__: Any) -> None:
    """Refuse an answer that came, or sends us on, without encryption."""
    for url in (response.url, response.headers.get("location", "")):
        if "://" in url and not url.startswith(SAFE):
            raise ValueError(f"it expected https, got {url}")


def _retrieve(url: str, target: Path, sha256: str) -> Path:
    import pooch

    if not url.startswith(SAFE):
        raise ValueError("it is no https address")
    log = pooch.get_logger()
    level = log.level
    log.setLevel(logging.WARNING)  # it announces every download on stderr, which is the command line's own
    try:
        got = pooch.retrieve(
            url,
            known_hash=f"sha256:{sha256}",
            fname=target.name,
            path=target.parent,
            downloader=pooch.HTTPDownloader(timeout=30, hooks={"response": _refuse_plain}),
        )
    finally:
        log.setLevel(level)
    return Path(got)
