"""Where data is kept, how it is fetched and how it is unpacked. What comes over the network is not trusted.

A file is complete or invisible: it is written beside its place, checked, synced and moved. An archive is unpacked in
full or not at all, and never outside of its folder.
"""

import contextlib
import hashlib
import http.client
import os
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

CHUNK = 1 << 16
READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # others can fail in ways of their own, and no source needs them


class DataError(ValueError):
    """Data is missing, damaged or not what was expected. The message names what, where, and the mend."""


def data_folder(given: str | os.PathLike | None = None) -> Path:
    """`given`, else $QUICKSTUDY_DATA, else `quickstudy` in $XDG_DATA_HOME or in ~/.local/share.

    Nothing is created. Raises DataError when a home folder is needed and there is none.
    """
    base = os.environ.get("XDG_DATA_HOME", "")
    default = Path(base) if os.path.isabs(base) else Path("~/.local/share")  # the standard ignores relative ones
    try:
        return Path(given or os.environ.get("QUICKSTUDY_DATA") or default / "quickstudy").expanduser()
    except RuntimeError as error:
        raise DataError(f"no folder for data: {error}; set QUICKSTUDY_DATA to one that you may write to") from error


@contextlib.contextmanager
def disk(place: Path) -> Iterator[None]:
    """Turns the disk's refusals into DataErrors that name the file."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"the disk refuses {error.filename or place}: {error.strerror or error}; make room there, or set "
            f"QUICKSTUDY_DATA to a folder that you may write to"
        ) from error


@contextlib.contextmanager
def replacing(to: Path) -> Iterator[IO[bytes]]:
    """A file to write that becomes `to` if the block succeeds and leaves nothing if it does not."""
    temporary = to.with_name(f".tmp-{os.getpid()}-{to.name}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, to)
    finally:
        temporary.unlink(missing_ok=True)


def _check_scheme(url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url} is not fetched: only http and https are; give such an address")


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but not out of http and https: the library's own would go on to ftp."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        try:
            _check_scheme(newurl)
        except DataError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_html(start: bytes) -> bool:
    text = start[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith(b"<") and (b"<!doctype html" in text or b"<html" in text)


def _body(response: http.client.HTTPResponse, url: str, max_bytes: int) -> Iterator[bytes]:
    """The response in chunks, as long as it is what a file of at most `max_bytes` would be."""
    length = response.headers.get("Content-Length", "")
    declared = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
    received = 0
    while chunk := response.read(CHUNK):
        if not received and _is_html(chunk):
            raise DataError(
                f"{url}: got an HTML page instead of an archive (a login or proxy page?); open the address in a "
                f"browser to see it, and try again from a network without one"
            )
        received += len(chunk)
        if max(received, declared or 0) > max_bytes:
            raise DataError(
                f"{url} is larger than the {max_bytes:,} bytes expected of it; it is not the file that is meant"
            )
        yield chunk
    if declared is not None and received < declared:
        raise DataError(f"{url}: the transfer ended after {received:,} of {declared:,} bytes; try again")


def _download(url: str, max_bytes: int, timeout: int | float) -> Generator[bytes, None, None]:
    """`_body` of what lies at `url`; whatever the network does is a DataError."""
    request = urllib.request.Request(url, headers={"User-Agent": "quickstudy"})
    try:
        with urllib.request.build_opener(_WebRedirects).open(request, timeout=timeout) as response:
            yield from _body(response, url, max_bytes)
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(
            f"{url}: the server answered {error.code} {error.reason}; try again later, and see whether it has moved"
        ) from error
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DataError(
            f"{url}: no connection, or it broke ({reason}); try again, and check the network and its proxy"
        ) from error


def fetch(url: str, to: Path, *, sha256: str, max_bytes: int, timeout: int | float = 60) -> None:
    """Downloads `url` to the file `to`, which is there in full, with this SHA-256, or not touched at all.

    `timeout` is in seconds without any answer. Raises DataError for other schemes than http and https, for what is
    larger than `max_bytes` whatever the server declares, cut short, an HTML page or of another hash, and for
    everything that networks, servers and disks do.
    """
    _check_scheme(url)
    total = hashlib.sha256()
    with disk(to), contextlib.closing(_download(url, max_bytes, timeout)) as chunks, replacing(to) as file:
        for chunk in chunks:
            total.update(chunk)
            file.write(chunk)
        if total.hexdigest() != sha256.lower():
            raise DataError(
                f"{url} has SHA-256 {total.hexdigest()}, expected {sha256.lower()}: it was changed, or damaged on the "
                f"way; try again, from another network if it stays so"
            )


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    """Raises DataError for everything that is not a plain file or folder below the archive's own folder."""
    name = member.orig_filename  # as stored: `filename` has been cut at a zero byte, and on Windows translated
    refuse = lambda why: DataError(f"{archive} is not unpacked: its member {name!r} {why}; get the archive again")
    if not name or name.startswith("/"):
        raise refuse("has an absolute path or none")
    if ".." in PurePosixPath(name).parts:
        raise refuse("leads out of the folder")
    if any(c in name for c in "\\:\0"):
        raise refuse("has a drive letter, backslash or zero byte in its name")
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise refuse("is a symlink or a special file")
    if member.flag_bits & 0x1:
        raise refuse("is encrypted")
    if member.compress_type not in READABLE:
        raise refuse(f"is compressed by method {member.compress_type}, which is not supported")


def _place(archive: Path, into: Path, member: zipfile.ZipInfo) -> IO[bytes] | None:
    """The new file that a member is written to; None for folders, which are made."""
    place = into / member.filename
    try:
        with disk(place):
            (place if member.is_dir() else place.parent).mkdir(parents=True, exist_ok=True)
            return None if member.is_dir() else open(place, "xb")  # x: no member replaces another
    except DataError as error:
        if isinstance(error.__cause__, FileExistsError | NotADirectoryError):
            raise DataError(
                f"{archive} is not unpacked: {member.filename!r} and another member want one place; get it again"
            ) from error
        raise


def _unpack(opened: zipfile.ZipFile, archive: Path, into: Path, max_bytes: int) -> None:
    """Writes every member below `into`. Bytes are counted as they come: a header may say anything."""
    left = max_bytes
    for member in opened.infolist():
        target = _place(archive, into, member)
        if target is None:
            continue
        with target, opened.open(member) as source:
            while chunk := source.read(CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise DataError(
                        f"{archive} is not unpacked: it holds more than the {max_bytes:,} bytes expected of it; "
                        f"it is not the file that is meant"
                    )
                with disk(into):
                    target.write(chunk)
                    target.flush()  # here, where a full disk is distinguished from a damaged archive


def extract(archive: Path, into: Path, *, max_members: int, max_bytes: int) -> None:
    """Unpacks a zip file to `into`, a folder that does not exist yet and that does not appear on failure.

    Raises DataError for members that are absolute, lead outside, are links, special or encrypted or have names that
    mean something else on another system, for more than `max_members` of them or `max_bytes` in them, for damaged
    archives, and when the disk refuses.
    """
    if into.exists():
        raise DataError(f"{archive} is not unpacked: {into} exists already; remove it")
    with disk(into):
        temporary = Path(tempfile.mkdtemp(dir=into.parent, prefix=".tmp-"))
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            if len(members) > max_members:
                raise DataError(
                    f"{archive} is not unpacked: it has {len(members):,} members, at most {max_members:,} are "
                    f"expected; it is not the file that is meant"
                )
            for member in members:
                _check_member(archive, member)
            _unpack(opened, archive, temporary, max_bytes)
        with disk(into):
            os.replace(temporary, into)
    except DataError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError) as error:
        raise DataError(f"{archive} is not a whole zip file ({error}); get it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
