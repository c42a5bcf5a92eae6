"""Repositories of the Hugging Face Hub. huggingface_hub is imported when one is read or written, not before."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from litmaml.runs.plain_files import NotPlain, read_text
from litmaml.shown import first_line, one_line

PREFIX = "hf://"
_WORD = r"(?!\.+(?:[/@]|\Z))[\w.-]+"
_NAME = re.compile(rf"{PREFIX}({_WORD})/({_WORD})(?:@({_WORD}(?:/{_WORD})*))?", re.ASCII)
"""Letters, digits, and no part of dots alone: a revision becomes the name of a file in the library's cache."""


class Repository:
    """A repository of models, by its name.

    Args:
        named: ``hf://USER/NAME`` or ``hf://USER/NAME@REV``, where REV is a branch, a tag or a commit.
        argument: What the user called it, for the errors.

    Raises:
        ValueError: It is no such name.
        ImportError: The extra ``hub`` is not installed.
    """

    def __init__(self, named: str, argument: str) -> None:
        found = _NAME.fullmatch(named)
        if found is None:
            raise ValueError(
                f"{argument}: has to be {PREFIX}USER/NAME or {PREFIX}USER/NAME@REVISION, got {named!r}; such as "
                f"{PREFIX}me/birds or {PREFIX}me/birds@v1"
            )
        self.named, self.argument = named, argument
        self.user, self.name, self.revision = found.groups()
        self.id = f"{self.user}/{self.name}"
        try:
            self._library: Any = importlib.import_module("huggingface_hub")
            self._known: Any = importlib.import_module("huggingface_hub.errors")
        except ImportError as error:
            raise ImportError(
                f"{argument}: {named!r} needs huggingface_hub ({error}): pip install 'litmaml[hub]'"
            ) from error

    def fetch(self, files: Sequence[str]) -> Path:
        """The folder in the library's cache with those of some files that the repository has, and perhaps others.

        Nothing is asked of the network that is in the cache already but whether the revision is still the same one; and
        without a network the cache answers.

        Raises:
            OSError: There is no such repository or revision, it cannot be reached, or there is no room for the files.
        """
        with self._errors(), warnings.catch_warnings():
            # With which the library would begin to fill the disk.
            warnings.filterwarnings("error", message="Not enough free disk space")
            return Path(self._library.snapshot_download(self.id, revision=self.revision, allow_patterns=[*files]))

    def create(self, private: bool) -> None:
        """Make the repository and the branch that the revision names, where they are not there yet.

        Raises:
            OSError: It cannot be made, as without a login.
            ValueError: It is to be private, and there is a public one.
        """
        api = self._library.HfApi()
        with self._errors():
            api.create_repo(self.id, private=private or None, exist_ok=True)
            is_private = api.model_info(self.id).private if private else None
        if is_private is False:
            raise ValueError(
                f"private: {PREFIX}{self.id} is there already and public; make it private on its page, or name another"
            )
        if self.revision is not None:
            with self._errors():
                api.create_branch(self.id, branch=self.revision, exist_ok=True)

    def names(self) -> list[str]:
        """The files that it has."""
        with self._errors():
            return [*self._library.HfApi().list_repo_files(self.id, revision=self.revision)]

    def text(self, file: str) -> str:
        """The text of one of its files; empty if it is none."""
        try:
            return read_text(self.fetch([file]) / file)
        except NotPlain:
            return ""

    def commit(self, files: Mapping[str, Path | bytes], gone: Collection[str], message: str) -> str:
        """Write files and remove others, in one commit.

        Returns:
            The address of the repository's page.

        Raises:
            OSError: They cannot be written.
        """
        hub = self._library
        changes = [
            *(hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()),
            *(hub.CommitOperationDelete(path_in_repo=name) for name in gone),
        ]
        api = hub.HfApi()
        with self._errors():
            api.create_commit(self.id, changes, commit_message=message, revision=self.revision)
        return f"{api.endpoint}/{self.id}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Tell in a line what the library tells in many."""
        try:
            yield
        except Exception as error:  # its own, of the disk, and those of the HTTP client that it happens to use
            raise self._told(error) from error

    def _told(self, error: Exception) -> Exception:
        known, what = self._known, f"{self.argument}: {self.named!r}"
        said, cause = first_line(error), "" if error.__cause__ is None else first_line(error.__cause__)
        said = one_line(said if cause in said else f"{said}: {cause}")[:240]
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, known.RevisionNotFoundError):
            return FileNotFoundError(
                f"{what}: {self.id} has no revision {self.revision or 'main'!r}; see the branches on its page"
            )
        if isinstance(error, known.RepositoryNotFoundError) or status == 401:
            return FileNotFoundError(
                f"{what} is not on the Hugging Face Hub, or not for you to see; see that the name is right, and log in "
                "by hf auth login or HF_TOKEN"
            )
        if status == 403:
            return PermissionError(
                f"{what} is not for you to write or read ({said}); log in by hf auth login or HF_TOKEN as one who may"
            )
        if isinstance(error, known.LocalEntryNotFoundError):
            return ConnectionError(
                f"{what} cannot be fetched from the Hugging Face Hub, and is not in the cache ({said}); see that there "
                "is a network, and that HF_HUB_OFFLINE is not set"
            )
        if isinstance(error, Warning):
            return OSError(f"{what} is larger than the disk has room for ({said}); set HF_HOME to a larger one")
        if isinstance(error, ValueError):
            return ValueError(f"{what} is refused ({said})")
        return ConnectionError(f"{what}: the Hugging Face Hub does not do it ({said}); see that there is a network")
