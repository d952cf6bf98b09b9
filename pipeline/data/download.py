"""Download files whose content is known, from the first source that has them: a folder, your own mirror, a public one.

Downloaders for known files (pooch, for example) try one address and check the digest of the archive; here several
sources are tried, and the content is what counts, however it was compressed.
"""

import hashlib
import os
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry

from pipeline.errors import UserError, redacted
from pipeline.storage.files import atomic, main_repository

# With one retry and two mirrors, unreachable mirrors cost half a minute at most.
CONNECT_TIMEOUT, READ_TIMEOUT = 3.0, 8.0  # seconds
RETRY = Retry(connect=1, read=0, status=1, redirect=5, backoff_factor=0.2, status_forcelist=(429, 500, 502, 503, 504))
SLOW, START = 10_000.0, 20.0  # least average rate in bytes per second, checked after START seconds

GZIP = b"\x1f\x8b"  # how a gzip file starts
CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # content codings of HTTP, and zlib's `wbits` for them


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

    @property
    def largest_archive(self) -> int:
        """Bytes that an archive of this content has at most."""
        return self.size + 4096


class SourceError(Exception):
    """A source did not give the pinned file. The message is the reason."""


class UnreachableError(SourceError):
    """A source does not answer, so it is not asked for the next file either."""


def fetch(dataset: str, files: Sequence[Pinned], mirrors: Sequence[str]) -> list[bytes]:
    """Get the verified content of each file.

    The sources are `DATA_MIRROR` (a folder or a URL) if it is set, the folder `downloads/<dataset>` of the main
    repository, and the mirrors, in this order. Downloaded files are kept in that folder.

    Raises:
        UserError: if no source has a file. It lists each source and why it failed.
    """
    folder = main_repository() / "downloads" / dataset
    mirror = os.environ.get("DATA_MIRROR")
    sources = [*([mirror] if mirror else []), *([str(folder)] if folder.is_dir() else []), *mirrors]
    # Limits the wait for a name server that does not answer, which is 10 s or more per mirror by default.
    os.environ.setdefault("RES_OPTIONS", "timeout:2 attempts:2")
    failures: dict[str, SourceError] = {}
    return [_fetch_one(dataset, file, sources, folder, failures) for file in files]


def _fetch_one(
    dataset: str, file: Pinned, sources: Sequence[str], folder: Path, failures: dict[str, SourceError]
) -> bytes:
    """Get one file from the first source that has it; record in `failures` why the earlier ones do not."""
    for source in sources:
        if isinstance(failures.get(source), UnreachableError):
            continue
        remote = source.lower().startswith(("http://", "https://"))
        try:
            archive = _download(source, file) if remote else _read(source, file)
            content = verified(file, archive)
        except SourceError as error:
            failures[source] = error
            print(redacted(f"{source}: {file.archive}: {error}"), file=sys.stderr)
            continue
        if remote:
            with atomic(folder / file.archive) as temporary:
                temporary.write_bytes(archive)
        return content
    tried = "\n".join(f"  {source}: {reason}" for source, reason in failures.items())
    raise UserError(
        f"{dataset}: no source has {file.archive} as published; tried\n{tried}\n"
        "Three ways out:\n"
        "  set DATA_MIRROR to a folder or a URL that holds the four .gz files;\n"
        f"  put the files into {folder};\n"
        "  run `make demo`, which needs no download."
    )


def verified(file: Pinned, archive: bytes) -> bytes:
    """Decompress the archive and check its content. At most the known size is decompressed.

    Raises:
        SourceError: if it is not the pinned file.
    """
    if not archive.startswith(GZIP):
        raise SourceError(f"not a gzip file (it starts with {archive[:12]!r})")
    content = _decompressed(archive, file.size)
    if len(content) < file.size:
        raise SourceError(f"truncated: {len(content)} of {file.size} bytes")
    digest = hashlib.sha256(content if file.digest_of == "content" else archive).hexdigest()
    if digest != file.sha256:
        raise SourceError(f"not the published {file.digest_of}: SHA-256 is {digest[:12]}…, not {file.sha256[:12]}…")
    return content


def _decompressed(data: bytes, size: int, coding: str = "gzip") -> bytes:
    """Decompress at most `size` bytes."""
    decoder = zlib.decompressobj(CODINGS[coding])
    try:
        content = decoder.decompress(data, size + 1)
    except zlib.error as error:
        raise SourceError(f"damaged {coding} file ({error})") from None
    if len(content) > size:
        raise SourceError(f"holds more than the {size} bytes expected")
    if not decoder.eof:
        raise SourceError(f"truncated after {len(content)} bytes")
    return content


def _read(source: str, file: Pinned) -> bytes:
    # Relative to the main repository: a temporary experiment runs in another folder.
    folder = main_repository() / os.path.expanduser(source)  # noqa: PTH111, the method raises for an unknown user
    if not os.path.isdir(folder):  # noqa: PTH112, the method raises for a name that is too long
        raise UnreachableError("no such folder")
    try:
        with (folder / file.archive).open("rb") as stream:
            return _read_bounded(stream.read, file)
    except OSError as error:
        raise SourceError(f"cannot be read ({error.strerror})") from None


def _download(mirror: str, file: Pinned) -> bytes:
    try:
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=RETRY))
            url = f"{mirror.rstrip('/')}/{file.archive}"
            header, timeout = {"Accept-Encoding": "identity"}, (CONNECT_TIMEOUT, READ_TIMEOUT)
            with session.get(url, headers=header, stream=True, timeout=timeout) as response:
                response.raise_for_status()
                size = int(response.headers.get("Content-Length", 0)) or None
                # `read1` does not wait until a block is full, so that a slow mirror is noticed.
                body = _read_bounded(response.raw.read1, file, size)
                return _decoded(body, response.headers.get("Content-Encoding", ""), file)
    except requests.HTTPError as error:
        raise SourceError(str(error).partition(" for url")[0]) from None
    except requests.exceptions.InvalidURL:  # its message may show a part of a password
        raise SourceError("not a valid address; write special characters of a password as %XX") from None
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.RetryError, ReadTimeoutError) as error:
        raise UnreachableError(_reason(error)) from None
    except (requests.RequestException, HTTPError, ValueError) as error:
        raise SourceError(_reason(error)) from None


def _decoded(body: bytes, codings: str, file: Pinned) -> bytes:
    """The archive in the body of an HTTP response: undo its content codings, which a server may apply unasked.

    Some servers name the archive's own compression as a coding. What they send is the archive.
    """
    for coding in reversed([name.strip() for name in codings.lower().split(",")]):
        if coding in ("", "identity"):
            continue
        if coding not in CODINGS:
            raise SourceError(f"sent with the content coding {coding}, although none was asked for")
        inner = _decompressed(body, file.largest_archive, coding)
        if not inner.startswith(GZIP):
            return body
        body = inner
    return body


def _read_bounded(read: Callable[[int], bytes], file: Pinned, size: int | None = None) -> bytes:
    """Read to the end, unless that takes too long or gives more bytes than an archive of this content can have."""
    limit, start = file.largest_archive, time.monotonic()
    archive = bytearray()
    with tqdm(total=size, unit="B", unit_scale=True, desc=file.archive, disable=None if size else True) as bar:
        while block := read(1 << 16):
            bar.update(len(block))
            archive += block
            seconds = time.monotonic() - start
            if seconds > START and len(archive) < SLOW * seconds:
                raise UnreachableError(f"too slow: {len(archive)} bytes in {seconds:.0f} s")
            if len(archive) > limit:
                raise SourceError(f"larger than the {limit} bytes that it can be at most")
    return bytes(archive)


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words: requests wraps an error of urllib3, which wraps one of the system."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (str(error) or type(error).__name__).splitlines()[0]
