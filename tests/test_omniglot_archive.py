"""Omniglot's archives: fetched whole or not at all, unpacked in their folder only, and rendered pixel by pixel."""

import contextlib
import hashlib
import http.server
import io
import os
import socket
import struct
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quickstudy.tasks.files import DataError, data_folder, extract, fetch
from quickstudy.tasks.omniglot_archive import DRAWERS, SOURCES, Source, build, splits

PAGE = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head><body>Welcome to the airport</body></html>"
SHARED = Path(os.environ.get("QUICKSTUDY_DATA") or "nowhere", "omniglot28.npz")


def quiet(line: str) -> None:
    del line


def png(ink: np.ndarray) -> bytes:
    """Black ink on white, one bit a pixel, as the author's files are."""
    out = io.BytesIO()
    Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).convert("1").save(out, "PNG")
    return out.getvalue()


def ink(columns: int = 0, rows: int = 105, side: int = 105) -> np.ndarray:
    """Ink from the left edge to a column, from the upper edge to a row."""
    out = np.zeros((side, side), bool)
    out[:rows, :columns] = True
    return out


def zipped(members: dict) -> bytes:
    """A zip file of (name or ZipInfo) -> bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def drawings(top: str, characters: dict, draw=lambda drawer: ink(drawer)) -> dict:
    """The members of an archive with so many characters of each alphabet."""
    return {
        f"{top}/{alphabet}/character{number:02d}/{1000 + number}_{drawer:02d}.png": png(draw(drawer))
        for alphabet, count in characters.items()
        for number in range(1, count + 1)
        for drawer in range(DRAWERS, 0, -1)  # not in order, as nothing says that they are
    }


class Served:
    """What a local server answers: path -> (status, headers, body)."""

    def __init__(self, address: str):
        self.address, self.answers, self.fetched = address, {}, []

    def put(self, path: str, body: bytes, status: int = 200, headers: dict | None = None) -> str:
        self.answers[path] = (status, {"Content-Length": str(len(body))} if headers is None else headers, body)
        return self.address + path


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.fetched.append(self.path)
            status, headers, body = served.answers.get(self.path, (404, {"Content-Length": "0"}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who refuses a file hangs up
                self.wfile.write(body)

        def log_message(self, *args):
            del args

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Served(f"http://127.0.0.1:{listening.server_port}")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    listening.shutdown()
    listening.server_close()
    thread.join()


def source(server: Served, data: bytes, *, name="images_background", characters=1, background=True, **changed):
    url = server.put(f"/{name}.zip", data)
    known = Source(name, url, hashlib.sha256(data).hexdigest(), len(data), characters, background)
    return known._replace(**changed)


def pixels(bits: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits, axis=-1).reshape(*bits.shape[:-1], 28, 28)


# ---- what is written


def test_a_good_pair_gives_the_whole_layout(tmp_path, server):
    inuktitut = "Inuktitut_(Canadian_Aboriginal_Syllabics)"
    first = zipped(drawings("images_background", {inuktitut: 16, "Aaa": 2}))
    second = zipped({"images_evaluation/": b"", **drawings("images_evaluation", {"Aab": 3})})
    pair = [
        source(server, second, name="images_evaluation", characters=3, background=False),
        source(server, first, characters=18),
    ]
    said = []
    path = build(tmp_path / "new" / "folder", sources=pair, progress=said.append)
    assert [p.name for p in path.parent.iterdir()] == ["omniglot28.npz"] and path.name == "omniglot28.npz"
    assert said[-1] == "rendering 420 drawings at 28x28"
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    layout = {name: (array.shape, array.dtype.kind, array.dtype.itemsize) for name, array in arrays.items()}
    names = layout.pop("alphabet_names")
    assert names[:2] == ((3,), "U")
    assert layout == {
        "images": ((21, 20, 98), "u", 1),
        "images_nearest": ((21, 20, 98), "u", 1),
        "alphabet": ((21,), "u", 1),
        "character": ((21,), "u", 1),
        "background": ((3,), "b", 1),
        "small1": ((3,), "b", 1),
        "small2": ((3,), "b", 1),
        "vinyals": ((21,), "u", 1),
    }
    assert arrays["alphabet_names"].tolist() == ["Aaa", inuktitut, "Aab"]  # the background ones first
    assert arrays["background"].tolist() == [True, True, False]
    assert arrays["alphabet"].tolist() == [0] * 2 + [1] * 16 + [2] * 3
    assert arrays["character"].tolist() == [1, 2, *range(1, 17), 1, 2, 3]
    assert arrays["vinyals"].tolist() == [0, 0, *map(int, splits()["vinyals"][inuktitut]), 0, 0, 0]
    for character in pixels(arrays["images_nearest"]):  # drawer d has d columns: the drawers are in order
        columns = character[:, 0].sum(-1)
        assert columns.tolist() == [sum(4 * d > 15 * i + 7.5 for i in range(28)) for d in range(1, 21)]


def test_every_pixel_is_as_worked_out_by_hand(tmp_path, server):
    """A small pixel is 3.75 wide. 54 columns of ink cover 1.5/3.75 = 0.4 of column 14, whose centre, at 54.375, lies
    in the first column without. 43 rows cover 1.75/3.75 = 0.47 of row 11, and 0.47 * 0.4 = 0.19 of the corner."""
    archive = zipped(drawings("images_background", {"Aaa": 1}, lambda drawer: ink(54, 105 if drawer == 1 else 43)))
    path = build(tmp_path, sources=[source(server, archive)], progress=quiet)
    with np.load(path, allow_pickle=False) as stored:
        area, near = pixels(stored["images"])[0], pixels(stored["images_nearest"])[0]
    half = np.zeros((28, 28), np.uint8)
    half[:, :15] = 1
    np.testing.assert_array_equal(area[0], half)
    half[:, 14] = 0
    np.testing.assert_array_equal(near[0], half)
    corner = np.zeros((28, 28), np.uint8)
    corner[:12, :15] = 1
    corner[11, 14] = 0
    np.testing.assert_array_equal(area[1], corner)
    corner[11, :] = 0  # its centre is at 43.125
    corner[:, 14] = 0
    np.testing.assert_array_equal(near[1], corner)


def test_an_earlier_file_stays_until_the_new_one_is_whole(tmp_path, server):
    (tmp_path / "omniglot28.npz").write_bytes(b"before")
    good = source(server, zipped(drawings("images_background", {"Aaa": 1})))
    with pytest.raises(DataError):
        build(tmp_path, sources=[good._replace(characters=2)], progress=quiet)
    assert (tmp_path / "omniglot28.npz").read_bytes() == b"before"
    build(tmp_path, sources=[good], progress=quiet)
    assert zipfile.is_zipfile(tmp_path / "omniglot28.npz")


def test_what_is_pinned_is_the_authors():
    assert [s.characters for s in SOURCES] == [964, 659] and [s.background for s in SOURCES] == [True, False]
    assert all(len(bytes.fromhex(s.sha256)) == 32 and s.url.startswith("https://") for s in SOURCES)
    table = splits()
    counts = [sum(digits.count(part) for digits in table["vinyals"].values()) for part in "012"]
    assert counts == [1028, 172, 423]
    assert len(table["vinyals"]) == 50 and len(table["background"]) == 30
    assert sum(len(table["vinyals"][name]) for name in table["background"]) == 964
    assert all(
        len(table[small]) == 5 and set(table[small]) <= set(table["background"]) for small in table if "sm" in small
    )


@pytest.mark.skipif(not SHARED.exists(), reason="$QUICKSTUDY_DATA/omniglot28.npz is absent")
def test_the_table_of_splits_is_that_of_the_whole_file():
    table = splits()
    with np.load(SHARED, allow_pickle=False) as stored:
        names = stored["alphabet_names"].tolist()
        assert list(table["vinyals"]) == names
        assert "".join(table["vinyals"].values()) == "".join(map(str, stored["vinyals"]))
        for i, name in enumerate(names):
            assert len(table["vinyals"][name]) == (stored["alphabet"] == i).sum()
        for field in ("background", "small1", "small2"):
            assert table[field] == [n for n, chosen in zip(names, stored[field], strict=True) if chosen]


# ---- what is refused


def refused(folder: Path, known: Source, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(folder, sources=[known], progress=quiet)
    assert not list(folder.iterdir())


def test_fetching_refuses_what_is_not_the_file(tmp_path, server):
    good = zipped(drawings("images_background", {"Aaa": 1}))
    known = source(server, good)
    refused(tmp_path, known._replace(sha256="0" * 64), f"{known.url} has SHA-256 {known.sha256}, expected 0000")
    refused(tmp_path, known._replace(max_bytes=len(good) - 1), "larger than the [0-9,]+ bytes expected")
    refused(tmp_path, known._replace(url=known.url + ".gone"), "the server answered 404")
    refused(tmp_path, known._replace(url="file:///etc/hostname"), "only http and https")

    cut = server.put("/cut", good[:-10], headers={"Content-Length": str(len(good))})
    refused(tmp_path, known._replace(url=cut), rf"ended after {len(good) - 10:,} of {len(good):,} bytes")
    page = server.put("/page", PAGE)
    refused(tmp_path, known._replace(url=page), "got an HTML page instead of an archive .a login or proxy page")
    page = server.put("/502", PAGE, status=502)
    refused(tmp_path, known._replace(url=page), "the server answered 502")
    elsewhere = server.put("/elsewhere", b"", status=302, headers={"Location": "ftp://127.0.0.1/x"})
    refused(tmp_path, known._replace(url=elsewhere), "ftp://127.0.0.1/x is not fetched: only http and https")


@pytest.mark.parametrize("declared", [None, "10", "-1", "many"])
def test_a_server_may_declare_what_it_likes(tmp_path, server, declared):
    """Without a length or with a wrong one, the bytes that come are counted and the hash decides."""
    good = zipped(drawings("images_background", {"Aaa": 1}))
    url = server.put("/lying", good, headers={} if declared is None else {"Content-Length": declared})
    known = source(server, good, url=url)
    refused(tmp_path, known._replace(max_bytes=9 if declared == "10" else len(good) - 1), "larger than")
    if declared == "10":
        refused(tmp_path, known, "has SHA-256")
    else:
        assert build(tmp_path, sources=[known], progress=quiet).exists()


def test_a_redirection_is_followed(tmp_path, server):
    server.put(
        "/moved", b"", status=302, headers={"Location": server.put("/there", b"all of it"), "Content-Length": "0"}
    )
    fetch(f"{server.address}/moved", tmp_path / "x", sha256=hashlib.sha256(b"all of it").hexdigest(), max_bytes=9)
    assert (tmp_path / "x").read_bytes() == b"all of it" and server.fetched == ["/moved", "/there"]


def test_no_server_and_no_folder_are_named(tmp_path, server):
    with socket.socket() as idle:
        idle.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{idle.getsockname()[1]}/x"
        refused(tmp_path, source(server, b"", url=url), "no connection, or it broke .*refused")
        idle.listen()  # and never answers
        with pytest.raises(DataError, match="timed out"):
            fetch(url, tmp_path / "x", sha256="0" * 64, max_bytes=1, timeout=0.1)
    garbage = server.put("/silent", b"", headers={"Content-Length": "5", "Transfer-Encoding": "chunked"})
    refused(tmp_path, source(server, b"", url=garbage), "no connection, or it broke")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="QUICKSTUDY_DATA"):
        build(tmp_path / "file", sources=[], progress=quiet)


def symlink(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, 0o120777 << 16
    return member


def flagged(data: bytes) -> bytes:
    """The central directory's first member is said to be encrypted."""
    at = data.index(b"PK\x01\x02") + 8
    return data[:at] + struct.pack("<H", 1) + data[at + 2 :]


def flipped(data: bytes, name: bytes) -> bytes:
    """A byte of a member's stored content changed."""
    at = data.index(name) + len(name) + 3
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


GOOD = drawings("images_background", {"Aaa": 1})
BAD_MEMBERS = {
    "leads out of the folder": {"../escaped": b"x"},
    "'images_background/../../escaped' leads out": {"images_background/../../escaped": b"x"},
    "absolute path": {"/escaped": b"x"},
    "backslash": {"..\\escaped": b"x"},
    "drive letter": {"C:escaped": b"x"},
    "is a symlink": {symlink("images_background/escaped"): b"../../escaped"},
    "another member want one place": {"images_background/Aaa": b"x"},
    "40 are expected": {f"images_background/more{i}/": b"" for i in range(21)},
    "163,840 bytes expected": {"images_background/bomb": bytes(10**6)},
}


@pytest.mark.parametrize("message", BAD_MEMBERS)
def test_unpacking_refuses_what_leads_out_or_fills_the_disk(tmp_path, server, message):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    refused(folder, source(server, zipped({**GOOD, **BAD_MEMBERS[message]})), message)
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "b"]


def test_unpacking_refuses_what_is_damaged(tmp_path, server):
    good = zipped(GOOD)
    refused(tmp_path, source(server, flagged(good)), "is encrypted")
    refused(tmp_path, source(server, good[: len(good) // 2]), "is not a whole zip file .File is not a zip file")
    refused(tmp_path, source(server, flipped(good, b"_07.png")), "is not a whole zip file")
    refused(tmp_path, source(server, b"PK but nothing else"), "is not a whole zip file")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x", b"x")
    refused(tmp_path, source(server, out.getvalue()), "compressed by method 12")


def test_a_header_that_belittles_its_member_is_not_believed(tmp_path):
    """A million bytes that are declared as 10: nothing of them is left."""
    data = zipped({"bomb": bytes(10**6)})
    real, said = struct.pack("<I", 10**6), struct.pack("<I", 10)
    assert data.count(real) == 2  # in the member's own header and in the directory
    (tmp_path / "x.zip").write_bytes(data.replace(real, said))
    with pytest.raises(DataError, match="is not a whole zip file"):
        extract(tmp_path / "x.zip", tmp_path / "out", max_members=1, max_bytes=100)
    assert [p.name for p in tmp_path.iterdir()] == ["x.zip"]
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists already"):
        extract(tmp_path / "x.zip", tmp_path / "out", max_members=1, max_bytes=100)


FIRST = "images_background/Aaa/character01/1001_01.png"
BAD_CONTENT = {
    "Aaa/character01/1001_01.png has 104x104 pixels, not 105x105": {**GOOD, FIRST: png(ink(side=104))},
    "1001_01.png is not a readable PNG": {**GOOD, FIRST: b"no image"},
    "image file is truncated": {**GOOD, FIRST: GOOD[FIRST][:60]},
    "has 19 drawings, not 20": {name: data for name, data in GOOD.items() if name != FIRST},
    "has 2 characters below images_background/, not 1": drawings("images_background", {"Aaa": 2}),
    "has 0 characters below images_background/, not 1": drawings("elsewhere", {"Aaa": 1}),
    "not characterNN/IMAGE_DRAWER.png": {**GOOD, "images_background/Aaa/readme.png": b""},
    "not numbered from 1": {name.replace("character01", "character02"): data for name, data in GOOD.items()},
    "Greek has 1 characters, Omniglot's has 24": drawings("images_background", {"Greek": 1}),
    "Tibetan is in the wrong one": drawings("images_background", {"Tibetan": 1}),
}


@pytest.mark.parametrize("message", BAD_CONTENT)
def test_drawings_that_are_not_omniglots_are_refused(tmp_path, server, message):
    refused(tmp_path, source(server, zipped(BAD_CONTENT[message])), message)


# ---- where it is kept


def test_the_folder_is_given_or_found(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("QUICKSTUDY_DATA", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert data_folder() == tmp_path / ".local/share/quickstudy"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert data_folder() == tmp_path / ".local/share/quickstudy"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert data_folder() == tmp_path / "xdg/quickstudy"
    monkeypatch.setenv("QUICKSTUDY_DATA", "~/own")
    assert data_folder() == tmp_path / "own"
    assert data_folder("here") == Path("here") and data_folder(tmp_path) == tmp_path
