"""Pickles of somebody else's: arrays and plain containers are read, anything else is refused and nothing is run."""

from __future__ import annotations

import os
import pickle
import random
import struct
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from watch import told, watched

from litmaml.data import ImageTable
from litmaml.data.plain_pickle import Array, NotPlainPickle, read_plain_pickle


class _Runs:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def plain(value: Any) -> Any:
    """With arrays for what stands for them."""
    if isinstance(value, Array):
        return value.held
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    return {key: plain(part) for key, part in value.items()} if isinstance(value, dict) else value


HONEST = {
    "image_data": np.arange(240, dtype=np.uint8).reshape(5, 4, 4, 3),
    "labels": [0, 1, 2, 300, -1, 1 << 40],
    "fortran": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    "floats": np.linspace(0, 1, 5, dtype=np.float32),
    "texts": (np.array(["robin", "wren"]), np.array([b"robin", b"wren"])),
    "empty": np.zeros((0, 3)),
    "one": np.int64(7),
    "more": {"a": (1, 2.5, None, True, False), b"b": bytearray(b"xyz"), 3: "Caf\u00e9", "bytes": b"\x00\xff" * 300},
}


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_containers_are_read_as_python_reads_them(protocol: int, tmp_path: Path) -> None:
    honest = HONEST | {"ordered": OrderedDict(b=1, a=[2]), "missing": defaultdict(list, {"c": [3]})}
    path = tmp_path / "honest.pkl"
    for content in (honest, [honest["image_data"]] * 3, b"", []):
        path.write_bytes(pickle.dumps(content, protocol))
        with watched() as watch:
            read = plain(read_plain_pickle(path))
        assert not watch.events
        np.testing.assert_equal(read, plain(content))
    for old in (b"numpy._core", b"numpy.core"):
        path.write_bytes(pickle.dumps(HONEST["image_data"], 2).replace(b"numpy._core", old))
        np.testing.assert_equal(plain(read_plain_pickle(path)), HONEST["image_data"])


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def hostile(mark: Path) -> dict[str, bytes]:
    """Pickles that run, import, or fill the memory, by what they do."""
    touch = f"touch {mark}"
    large = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x00"
    encode = b"c_codecs\nencode\nq\x01"
    dtype = b"cnumpy\ndtype\n" + _text("u1") + b"\x85R"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(tR"
    return {
        "a command": pickle.dumps(_Runs(os.system, touch)),
        "a command of protocol 0": pickle.dumps(_Runs(os.system, touch), 0),
        "a command within": pickle.dumps({"image_data": [_Runs(os.system, touch)]}),
        "eval": pickle.dumps(_Runs(eval, f"open({str(mark)!r}, 'w')")),
        "exec": pickle.dumps(_Runs(exec, f"open({str(mark)!r}, 'w')")),
        "an import": pickle.dumps(_Runs(__import__, "canary")),
        "a name that is only named": b"\x80\x02cos\nsystem\n.",
        "a module": b"\x80\x02ccanary\nNet\n.",
        "by the stack": b"\x80\x04" + _text("os") + _text("system") + b"\x93" + _text(touch) + b"\x85R.",
        "an instance of protocol 0": b"(S'" + touch.encode() + b"'\nios\nsystem\n.",
        "an object of protocol 1": b"(cos\nsystem\n" + _text(touch) + b"o.",
        "a new object": b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.",
        "an extension": b"\x80\x02\x82\x01.",
        "a persistent object": b"Pthing\n.",
        "another class of numpy": b"\x80\x02cnumpy\nload\n" + _text(str(mark)) + b"\x85R.",
        "a part of an admitted module": b"\x80\x02cnumpy.core.multiarray\nfromfile\n.",
        "a part of builtins": b"\x80\x02c__builtin__\ngetattr\n.",
        "a name with dots": b"\x80\x04" + _text("numpy") + _text("core._internal") + b"\x93.",
        "an array of objects": pickle.dumps(np.array([{1}, _Runs(os.system, touch)], dtype=object), 2),
        "an array of a structure": pickle.dumps(np.zeros(2, dtype=[("a", "i4"), ("b", "f4")]), 2),
        "an array of endless size": array + b"(K\x01\x8a\x08" + b"\xff" * 7 + b"\x7f\x85" + dtype + b"\x89U\x01xtb.",
        "an array of texts without letters": array
        + b"(K\x01J\x00\xca\x9a\x3b\x85"
        + dtype.replace(_text("u1"), _text("U0"))
        + b"\x89U\x00tb.",
        "an array of negative size": array + b"(K\x01J\xff\xff\xff\xff\x85" + dtype + b"\x89U\x01xtb.",
        "an array of too few bytes": array + b"(K\x01K\x09\x85" + dtype + b"\x89U\x01xtb.",
        "a state for a function": b"\x80\x02c_codecs\nencode\n}" + _text("x") + b"K\x01sb.",
        "a state for a list": b"\x80\x02]}" + _text("append") + b"K\x01sb.",
        "a set": pickle.dumps({1, 2}),
        "a remembered place far away": b"\x80\x02Nr\xff\xff\xff\x7f" + b"]" * 5 + b"0" * 5 + b"cos\nsystem\n.",
        "a text that is encoded again and again": b"\x80\x02" + large + (encode + b"h\x00\x85R") * 400 + b".",
        "a number of bytes": b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        "a text of endless size": b"\x80\x02\x8d" + b"\xff" * 7 + b"\x3f" + b"x.",
        "many operations on nothing": b"\x80\x02" + b"0" * 100 + b".",
        "keys that are lists": b"\x80\x02}](K\x01tK\x01s.",
        "what is not there": b"\x80\x02h\x07.",
        "deep": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"cos\nsystem\n.",
        "nothing": b"",
        "a page": b"<html>not found</html>",
        "text": b"hello",
    }


_NAMED = {
    "a command": "posix.system",
    "an import": "builtins.__import__",
    "a module": "canary.Net",
    "another class of numpy": "numpy.load",
    "a part of builtins": "__builtin__.getattr",
    "a name with dots": "numpy.core._internal",
}


@pytest.mark.parametrize("name", hostile(Path("mark")))
def test_anything_else_is_refused_in_one_line_and_nothing_runs(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "data").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / "data" / f"FC100_{split}.pickle").write_bytes(hostile(mark)[name])
    tasks = ImageTable(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    with watched() as watch:
        said = told(lambda: tasks.load("train"))
    assert "FC100_train.pickle" in said
    assert "nothing of it is used" in said
    assert name not in _NAMED or f"names {_NAMED[name]}, and may only hold" in said
    assert "\n" not in said
    assert "\x1b" not in said
    assert not watch.events
    assert not mark.exists()
    assert watch.seconds < 2
    assert watch.megabytes < 200


@pytest.mark.parametrize("count", [pytest.param(20_000, marks=pytest.mark.slow), 600])
def test_mutated_pickles(count: int, tmp_path: Path) -> None:
    stream, path, refused = random.Random(0), tmp_path / "mutated.pkl", 0
    originals = [pickle.dumps(HONEST, protocol) for protocol in (2, 4, 5)]
    for k in range(count):
        data = bytearray(originals[k % 3])
        for _ in range(stream.choice((1, 2, 8))):
            place = stream.randrange(len(data))
            data[place : place + stream.randrange(3)] = stream.randbytes(stream.randrange(3))
        path.write_bytes(data)
        with watched() as watch:
            try:
                plain(read_plain_pickle(path))
            except NotPlainPickle:
                refused += 1
        assert not watch.events
        assert watch.seconds < 1
        assert watch.megabytes < 100
    assert refused > count // 5
