"""Checkpoints on a disk that fails in every way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from litmaml.runs import checkpoint_io
from litmaml.runs.checkpoint import checksum_file, load_plain
from litmaml.runs.checkpoint_io import DurableCheckpointIO
from litmaml.runs.folder import checkpoints_in, resolve_checkpoint, set_aside


def content(step: int) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((1000,), float(step))}, "hyper_parameters": {}, "global_step": step}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with checkpoints of the steps 1 (best), 2 (other) and 3 (last)."""
    for step, name in enumerate(("best", "other", "last"), 1):
        path = tmp_path / "run" / "checkpoints" / f"{name}.ckpt"
        DurableCheckpointIO().save_checkpoint(content(step), path)
        os.utime(path, (step, step))
    return tmp_path / "run"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # amid the weights: it still loads
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def resolved(run: Path, caplog: Any) -> tuple[str, str]:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        path = resolve_checkpoint("last", run, resume=True)
    return path.name, caplog.text


def test_what_is_saved_is_loaded_and_checked_by_sha256sum(run: Path) -> None:
    path = run / "checkpoints" / "last.ckpt"
    loaded = DurableCheckpointIO().load_checkpoint(path)
    assert loaded["global_step"] == 3
    assert torch.equal(loaded["state_dict"]["w"], torch.full((1000,), 3.0))
    checked = subprocess.run(["sha256sum", "-c", checksum_file(path).name], cwd=path.parent, check=False)
    assert checked.returncode == 0
    assert {p.name for p in path.parent.iterdir()} == {
        f"{name}.ckpt{end}" for name in ("best", "other", "last") for end in ("", ".sha256")
    }


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_damaged_file_is_refused_and_the_newest_other_taken(damage: Any, run: Path, caplog: Any) -> None:
    last = run / "checkpoints" / "last.ckpt"
    assert resolved(run, caplog) == ("last.ckpt", "")
    damage(last)
    with pytest.raises(ValueError, match=r"last\.ckpt' is damaged: its content does not fit last\.ckpt\.sha256"):
        load_plain(last)
    name, said = resolved(run, caplog)
    assert name == "other.ckpt"
    assert f"skipped: checkpoint: {str(last)!r} is damaged" in said
    assert f"using {run / 'checkpoints' / 'other.ckpt'}" in said


@pytest.mark.parametrize("damage", [truncate, empty])
def test_damage_is_found_without_a_checksum_too(damage: Any, run: Path, caplog: Any) -> None:
    for path in checkpoints_in(run):
        checksum_file(path).unlink()
    damage(run / "checkpoints" / "last.ckpt")
    assert resolved(run, caplog)[0] == "other.ckpt"


def test_nothing_but_damaged_checkpoints(run: Path) -> None:
    for path in checkpoints_in(run):
        truncate(path)
    with pytest.raises(ValueError, match=r"(?s)ckpt_path: there is no valid checkpoint:.*last.*other.*best"):
        resolve_checkpoint("last", run, resume=True)


def test_code_in_a_checkpoint_is_never_run(run: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(run / "executed"),)

    path = run / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": Malicious()}, path)
    checksum_file(path).unlink()
    with pytest.raises(ValueError, match="holds more than tensors and plain data"):
        DurableCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not (run / "executed").exists()


def test_full_disk_leaves_the_earlier_checkpoint(run: Path) -> None:
    """A file size limit stands in for the full disk: writing fails in the middle."""
    program = (
        "import resource, signal, torch, pathlib, sys\n"
        "from litmaml.runs.checkpoint_io import DurableCheckpointIO\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "big = {'state_dict': {'w': torch.zeros(100_000)}, 'hyper_parameters': {}}\n"
        "DurableCheckpointIO().save_checkpoint(big, sys.argv[1])\n"
    )
    path = run / "checkpoints" / "last.ckpt"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"OSError: checkpoint: cannot write {str(path)!r}" in done.stderr
    assert load_plain(path)["global_step"] == 3
    assert not list(path.parent.glob(".*"))


def test_every_interrupted_write_leaves_a_valid_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies before each of the writing operations in turn."""
    path, operations = run / "checkpoints" / "last.ckpt", 0

    class Died(BaseException):
        pass

    def dying(real: Any) -> Any:
        def operation(*arguments: Any) -> Any:
            nonlocal operations
            operations += 1
            if operations == dies_at:
                raise Died
            return real(*arguments)

        return operation

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))
    seen = []
    for dies_at in range(1, 30):
        operations = 0
        try:
            DurableCheckpointIO().save_checkpoint(content(10 + dies_at), path)
        except Died:
            seen.append(load_plain(path)["global_step"])
        else:
            break
    assert len(seen) == 9  # three files: the bytes, the name, the name's folder
    assert seen[:5] == [3] * 5
    assert seen[5:] == [16, 17, 18, 19]


def test_every_interrupted_link_leaves_a_valid_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies before each operation by which a checkpoint gets the best one's name."""
    other, best = (run / "checkpoints" / f"{name}.ckpt" for name in ("other", "best"))
    for dies_at in range(1, 30):
        DurableCheckpointIO().save_checkpoint(content(1), best)
        operations = iter([None] * (dies_at - 1))

        def dying(real: Any, operations: Any = operations) -> Any:
            def operation(*arguments: Any) -> Any:
                next(operations)
                return real(*arguments)

            return operation

        with monkeypatch.context() as dead:
            for name in ("fsync", "replace", "link"):
                dead.setattr(os, name, dying(getattr(os, name)))
            try:
                checkpoint_io.link_checkpoint(other, best)
            except StopIteration:
                assert load_plain(best)["global_step"] in (1, 2)
            else:
                break
    assert dies_at == 10  # the link; two sums with their names and folders, and the link's
    assert load_plain(best)["global_step"] == load_plain(other)["global_step"] == 2


def test_a_file_system_without_links(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    checkpoint_io.link_checkpoint(run / "checkpoints" / "other.ckpt", run / "checkpoints" / "best.ckpt")
    assert load_plain(run / "checkpoints" / "best.ckpt")["global_step"] == 2


@pytest.mark.parametrize("at", [".last.ckpt.unfinished", ".last.ckpt.sha256.unfinished"])
def test_nothing_unfinished_stays_on_a_full_disk(at: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def full(self: Path, *arguments: Any, **named: Any) -> Any:
        if self.name == at and "w" in arguments[0]:
            return real(Path("/dev/full"), "wb", buffering=0)
        return real(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match=r"cannot write .*: .*No space left on device"):
        DurableCheckpointIO().save_checkpoint(content(9), run / "checkpoints" / "last.ckpt")
    assert not list((run / "checkpoints").glob(".*"))
    assert load_plain(run / "checkpoints" / "last.ckpt")["global_step"] == 3


@pytest.mark.slow
def test_killed_while_writing_again_and_again(run: Path) -> None:
    program = (
        "import sys, torch, itertools\n"
        "from litmaml.runs.checkpoint_io import DurableCheckpointIO\n"
        "for step in itertools.count(100):\n"
        "    big = {'state_dict': {'w': torch.full((500_000,), float(step))}, 'hyper_parameters': {}}\n"
        "    DurableCheckpointIO().save_checkpoint(big | {'global_step': step}, sys.argv[1])\n"
    )
    path = run / "checkpoints" / "last.ckpt"
    for pause in (0.013, 0.037, 0.061):
        before = path.stat().st_mtime_ns
        process = subprocess.Popen([sys.executable, "-c", program, path])
        while path.stat().st_mtime_ns == before:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(pause)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        found = load_plain(path)
        assert torch.equal(found["state_dict"]["w"], torch.full((500_000,), float(found["global_step"])))


def test_removing_takes_the_checksum_along(run: Path) -> None:
    io, other = DurableCheckpointIO(), run / "checkpoints" / "other.ckpt"
    io.save_checkpoint(torch.load(other), other)
    io.remove_checkpoint(other)
    assert {p.name for p in (run / "checkpoints").glob("other*")} == set()


def test_nothing_is_removed_where_no_checkpoint_was_written(run: Path, tmp_path: Path) -> None:
    """A callback takes the names of what it once wrote from a checkpoint, and so from whoever made that."""
    io, there = DurableCheckpointIO(), run / "checkpoints"
    io.save_checkpoint(torch.load(there / "other.ckpt"), there / "other.ckpt")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (there / "link").symlink_to(tmp_path / "mine")
    for named in (there / "link" / "thesis.txt", tmp_path / "mine" / "thesis.txt"):
        io.remove_checkpoint(named)
        assert named.read_text() == "precious"
    (there / "epoch=1-val").mkdir()  # of a metric's name
    (there / "epoch=1-val" / "loss.ckpt").touch()
    io.remove_checkpoint(there / "epoch=1-val" / "loss.ckpt")
    assert not list((there / "epoch=1-val").iterdir())


def test_storage_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="storage_options"):
        DurableCheckpointIO().save_checkpoint({}, tmp_path / "a.ckpt", storage_options={"a": 1})


def test_names_of_checkpoints(run: Path) -> None:
    assert resolve_checkpoint("best", run, resume=True).name == "best.ckpt"
    assert resolve_checkpoint(str(run), Path("elsewhere"), resume=True).name == "last.ckpt"
    assert resolve_checkpoint(str(run), Path("elsewhere"), resume=False).name == "best.ckpt"
    for resume in (True, False):
        for name in ("best", "last"):
            named = resolve_checkpoint(f"{run}/{name}", Path("elsewhere"), resume=resume)
            assert named == run / "checkpoints" / f"{name}.ckpt"
    with pytest.raises(FileNotFoundError, match=r"there is no nowhere/checkpoints/best\.ckpt; there is no"):
        resolve_checkpoint("best", Path("nowhere"), resume=False)
    with pytest.raises(FileNotFoundError, match="checkpoint: 'bets' is neither a file"):
        resolve_checkpoint("bets", run, resume=False, argument="checkpoint")
    moved = set_aside(run)
    assert moved is not None
    assert moved.name == "run.1"
    assert not run.exists()


def test_the_current_folder_is_not_moved_away(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "work").mkdir()
    monkeypatch.chdir(run / "work")
    for named in (run, Path("..")):
        with pytest.raises(ValueError, match=r"trainer\.default_root_dir: .* holds the current folder"):
            set_aside(named)
    assert run.is_dir()


@pytest.mark.parametrize("value", [Path("x"), np.float64(1), b"x", slice(1)])
def test_what_could_not_be_read_again_is_not_written(value: Any, tmp_path: Path) -> None:
    """A callback that keeps it would otherwise cost the run, of which no checkpoint could be opened."""
    file, io = tmp_path / "x.ckpt", DurableCheckpointIO()
    io.save_checkpoint({"a": 1}, file)
    with pytest.raises(
        ValueError, match=r"could not be read again, and was not written: it names '.*'; what callbacks"
    ):
        io.save_checkpoint({"a": value}, file)
    assert io.load_checkpoint(file) == {"a": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.ckpt", "x.ckpt.sha256"]


def test_plain_values_and_tensors_of_every_type_come_back(tmp_path: Path) -> None:
    file, io = tmp_path / "x.ckpt", DurableCheckpointIO()
    types = (torch.float16, torch.bfloat16, torch.uint16, torch.float8_e4m3fn, torch.complex64, torch.bool)
    content = {
        "plain": [{1, 2}, 1j, Counter("aab"), OrderedDict(a=1), torch.Size([2]), torch.float64, None, 10**30, "x"],
        "tensors": [torch.ones(2).to(kind) for kind in types],
    }
    io.save_checkpoint(content, file)
    found = io.load_checkpoint(file)
    assert found["plain"] == content["plain"]
    assert [tensor.dtype for tensor in found["tensors"]] == list(types)
