"""Downloads from a real server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from litmaml.data.download import download

CONTENT = bytes(range(256)) * 1000


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder; of files called cut.zip it sends only the first half."""

    def log_message(self, *_: object) -> None:
        pass

    def copyfile(self, source: object, outputfile: object) -> None:
        sent = len(CONTENT) // 2 if self.path == "/cut.zip" else len(CONTENT)
        outputfile.write(source.read()[:sent])  # type: ignore[attr-defined]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    for name in ("whole.zip", "cut.zip"):
        (folder / name).write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


MD5 = hashlib.md5(CONTENT).hexdigest()


def test_a_download_is_complete_and_shows_its_progress(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "data.zip"
    download(f"{server}/whole.zip", path, MD5)
    assert path.read_bytes() == CONTENT
    assert [*path.parent.iterdir()] == [path]
    assert "data.zip" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "md5", "message"),
    [
        ("whole.zip", "0" * 32, f"is not what was published: its MD5 sum is {MD5}, not 0000"),
        ("cut.zip", MD5, "is not what was published: its MD5 sum is"),
        ("nothing.zip", MD5, r"cannot fetch .*nothing\.zip .*404.* Fetch it by other means"),
    ],
)
def test_a_bad_download_leaves_nothing(server: str, tmp_path: Path, name: str, md5: str, message: str) -> None:
    path = tmp_path / "new" / "data.zip"
    with pytest.raises(OSError, match=message):
        download(f"{server}/{name}", path, md5)
    assert [*path.parent.iterdir()] == []


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot fetch http://127\.0\.0\.1:9/x\.zip"):
        download("http://127.0.0.1:9/x.zip", tmp_path / "x.zip", MD5)
