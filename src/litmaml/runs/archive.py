"""What torch writes as a file, looked at before torch reads it: its form, its sums, and how much it can stand for.

A zip archive can hold more than it seems: compressed zeros, members on top of each other, a second directory. And
a pickle of plain data can still ask for a gigabyte of zeros. torch.save writes none of that.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
import zipfile
from typing import IO

_MEMBER = re.compile(
    r"[\w.-]+/(data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id)"
)
_MOST_PICKLED = 1 << 20, 512
"""Bytes of the pickle: at least, and for each member of the archive."""
_MOST_OPERATIONS = 200_000, 200
"""Operations in the pickle, likewise: there are some 50 for each tensor."""
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_SIZE = 20
_TYPES = (
    *("BFloat16", "Bool", "Byte", "Char", "ComplexDouble", "ComplexFloat", "Double", "Float", "Half", "Int", "Long"),
    "Short",
)
_NAMES = {
    "__builtin__ complex",
    "__builtin__ set",
    "collections Counter",  # of a schedule's milestones
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",  # of the newer types
    "torch.storage UntypedStorage",
    *(f"torch {name}Storage" for name in _TYPES),
    *(f"torch {name}" for name in ("Size", "bfloat16", "bool", "device", "float16", "float32", "float64")),
    *(f"torch {name}" for name in ("int16", "int32", "int64", "int8", "uint16", "uint32", "uint64", "uint8")),
    *(f"torch {name}" for name in ("float8_e4m3fn", "float8_e5m2")),
}
"""What the pickle may name: tensors, their parts, and some collections."""


class NotTensors(ValueError):
    """The file holds more than tensors and plain data."""


def check_archive(file: IO[bytes], sums: bool) -> None:
    """Refuse a file that torch.save would not have written of tensors and plain data.

    Args:
        file: The opened file, which may be read from anywhere.
        sums: Whether to compare the content with the archive's own sums, too.

    Raises:
        NotTensors: It is of another kind, or holds more.
        ValueError: It is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(file, archive)
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise NotTensors("it is no file of torch.save")
            _check_pickle(archive.read(pickles[0]), len(archive.namelist()))
            if sums and (damaged := archive.testzip()):
                raise ValueError(f"its part {damaged!r} does not fit its sum")
    except zipfile.BadZipFile as error:
        file.seek(0)
        begun = file.read(4) in (b"PK\3\4", b"")
        raise (ValueError if begun else NotTensors)(str(error)) from error
    except (NotImplementedError, RuntimeError, struct.error, OverflowError, EOFError, UnicodeError) as error:
        raise ValueError(str(error)) from error


def _check_members(file: IO[bytes], archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    size = file.seek(0, io.SEEK_END)
    names = {member.filename for member in members}
    odd = next((m.filename for m in members if not _MEMBER.fullmatch(m.filename)), None)
    if odd is not None or len({name.partition("/")[0] for name in names}) != 1:
        raise NotTensors(f"it has a part {ascii(odd)[:60]}" if odd else "it is several files in one")
    if len(names) != len(members):
        raise NotTensors("it has two parts of one name")
    if any(
        m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 0x1 or m.compress_size != m.file_size for m in members
    ):
        raise NotTensors("it is compressed")
    if sum(m.file_size for m in members) > size:
        raise NotTensors("its parts overlap")
    if archive.start_dir != _directory(file, size) or archive.comment:
        raise NotTensors("it is more than one archive")


def _directory(file: IO[bytes], size: int) -> int:
    """Where the archive's end says that its directory is; -1 if the end is not at the file's end."""
    file.seek(size - _END.size)
    signature, *_, offset, _ = _END.unpack(file.read(_END.size))
    if signature != b"PK\5\6":
        return -1
    if offset == 0xFFFFFFFF:
        file.seek(size - _END.size - _LOCATOR_SIZE - _END_64.size)
        signature, *_, offset = _END_64.unpack(file.read(_END_64.size))
        if signature != b"PK\6\6":
            return -1
    return int(offset)


def _check_pickle(content: bytes, members: int) -> None:
    least, each = _MOST_PICKLED
    if len(content) > least + each * members:
        raise NotTensors(f"its plain data are {len(content)} bytes for {members} parts")
    least, each = _MOST_OPERATIONS
    most = least + each * members
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if count > most:
                raise NotTensors("its plain data are too much")
            if operation.name == "GLOBAL" and argument not in _NAMES:
                raise NotTensors(f"it names {ascii(argument)[:80]}")
            if operation.name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                raise NotTensors(f"it makes objects ({operation.name})")
    except NotTensors:
        raise
    except ValueError as error:
        raise NotTensors(str(error)) from error
