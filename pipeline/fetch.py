"""Files of known content from the first source that has them: a mirror of yours, a folder, the internet."""

import hashlib
import os
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry

from pipeline.errors import UserError
from pipeline.files import atomic, main_repository

CONNECT_TIMEOUT, READ_TIMEOUT = 3.0, 8.0  # seconds; with one retry and two mirrors, half a minute at most
SLOW, START = 10_000.0, 20.0  # bytes a second that a mirror must give on average, once so many seconds are over


@dataclass(frozen=True)
class Pinned:
    """A gzipped file, the size of its content in bytes, and the SHA-256 of its content or of its archive."""

    name: str
    size: int
    sha256: str
    digest_of: Literal["content", "archive"]

    @property
    def archive(self) -> str:
        return f"{self.name}.gz"


class SourceError(Exception):
    """A source did not give this file as it must be: the message says why."""


class UnreachableError(SourceError):
    """A source did not answer: there is no use in asking it for the next file."""


def fetch(dataset: str, files: Sequence[Pinned], mirrors: Sequence[str]) -> list[bytes]:
    """The verified content of each file.

    `DATA_MIRROR` (a folder or a URL) is tried first, then the folder `downloads/<dataset>` of the main
    repository, then the mirrors. What came over the network is kept in that folder.

    Raises:
        UserError: when a file is to be had nowhere; it lists each source and why it failed.
    """
    folder = main_repository() / "downloads" / dataset
    mirror = os.environ.get("DATA_MIRROR")
    sources = [*([mirror] if mirror else []), str(folder), *mirrors]
    # A name server that does not answer would otherwise cost 10 s or more a mirror.
    os.environ.setdefault("RES_OPTIONS", "timeout:2 attempts:2")
    failures: dict[str, SourceError] = {}
    contents: list[bytes] = []
    for file in files:
        content = _first(file, sources, folder, failures)
        if content is None:
            raise UserError(_nowhere(dataset, file, failures, folder))
        contents.append(content)
    return contents


def verified(file: Pinned, archive: bytes) -> bytes:
    """The content of a gzipped file, if it is the pinned one.

    Raises:
        SourceError: when it is anything else; never decompresses more than the known size.
    """
    if not archive.startswith(b"\x1f\x8b"):
        raise SourceError(f"not a gzip file (it starts with {archive[:12]!r})")
    if file.digest_of == "archive":
        _compare(file, archive)
    try:
        gunzip = zlib.decompressobj(wbits=31)
        content = gunzip.decompress(archive, file.size + 1)
    except zlib.error as error:
        raise SourceError(f"damaged gzip file ({error})") from None
    if len(content) > file.size:
        raise SourceError(f"holds more than the {file.size} bytes expected")
    if len(content) < file.size or not gunzip.eof:
        raise SourceError(f"truncated: {len(content)} of {file.size} bytes")
    if file.digest_of == "content":
        _compare(file, content)
    return content


def _compare(file: Pinned, data: bytes) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256:
        raise SourceError(f"not the published {file.digest_of}: SHA-256 is {digest[:12]}…, not {file.sha256[:12]}…")


def _first(file: Pinned, sources: Sequence[str], folder: Path, failures: dict[str, SourceError]) -> bytes | None:
    """Ask the sources in turn; note in `failures` why one gave nothing, and pass by the unreachable ones."""
    for source in sources:
        if isinstance(failures.get(source), UnreachableError):
            continue
        try:
            if source.startswith(("http://", "https://")):
                archive = _download(source, file)
                content = verified(file, archive)
                with atomic(folder / file.archive) as temporary:
                    temporary.write_bytes(archive)
                return content
            return verified(file, _read(_folder(source), file))
        except SourceError as error:
            failures[source] = error
            if not (source == str(folder) and isinstance(error, UnreachableError)):
                print(f"{source}: {file.archive}: {error}", file=sys.stderr)
    return None


def _folder(source: str) -> Path:
    """A folder relative to the main repository, for a temporary experiment runs elsewhere."""
    return main_repository() / Path(source).expanduser()


def _read(folder: Path, file: Pinned) -> bytes:
    if not folder.is_dir():
        raise UnreachableError("no such folder")
    path = folder / file.archive
    try:
        with path.open("rb") as stream:
            return _bounded(iter(lambda: stream.read(1 << 16), b""), file)
    except FileNotFoundError:
        raise SourceError("the folder has no such file") from None
    except OSError as error:
        raise SourceError(f"cannot be read ({error.strerror})") from None


def _download(mirror: str, file: Pinned) -> bytes:
    retry = Retry(
        connect=1, read=0, status=1, redirect=5, backoff_factor=0.2, status_forcelist=(429, 500, 502, 503, 504)
    )
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        session.mount("https://", HTTPAdapter(max_retries=retry))
        try:
            url = f"{mirror.rstrip('/')}/{file.archive}"
            with session.get(url, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT)) as response:
                response.raise_for_status()
                size = int(response.headers.get("Content-Length", 0)) or None
                with tqdm(total=size, unit="B", unit_scale=True, desc=file.archive, disable=None) as bar:
                    # What has come, without waiting for more: else a slow mirror would not be seen to be slow.
                    blocks = iter(lambda: response.raw.read1(1 << 16), b"")
                    archive = _bounded((block for block in blocks if bar.update(len(block)) or True), file)
        except requests.HTTPError as error:
            raise SourceError(str(error).partition(" for url")[0]) from None
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.RetryError, ReadTimeoutError) as error:
            raise UnreachableError(_reason(error)) from None
        except (requests.RequestException, HTTPError, ValueError) as error:
            raise SourceError(_reason(error)) from None
    if size is not None and len(archive) < size:
        raise SourceError(f"the connection closed after {len(archive)} of {size} bytes")
    return archive


def _bounded(blocks: Iterator[bytes], file: Pinned) -> bytes:
    """All blocks in one, as long as they come in time and are no more than an archive of this content can be."""
    limit, start = file.size + 4096, time.monotonic()
    archive = bytearray()
    for block in blocks:
        archive += block
        seconds = time.monotonic() - start
        if seconds > START and len(archive) < SLOW * seconds:
            raise UnreachableError(f"too slow: {len(archive)} bytes in {seconds:.0f} s")
        if len(archive) > limit:
            raise SourceError(f"larger than the {limit} bytes that it can be at most")
    return bytes(archive)


def _reason(error: Exception) -> str:
    """The innermost cause in a few words: requests wraps urllib3 wraps the system's own error."""
    cause: BaseException = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    return (str(cause) or type(cause).__name__).splitlines()[0]


def _nowhere(dataset: str, file: Pinned, failures: dict[str, SourceError], folder: Path) -> str:
    tried = "\n".join(f"  {source}: {why}" for source, why in failures.items())
    return (
        f"{dataset}: no source has {file.archive} as published; tried\n{tried}\n"
        "Three ways out:\n"
        "  set DATA_MIRROR to a folder or a URL that holds the four .gz files;\n"
        f"  put the files into {folder};\n"
        "  run `make demo`, which needs no download."
    )
