"""A server of the Hugging Face Hub's protocol, as much of it as reading and writing a repository of models takes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_owner"
"""Whoever sends it may write everywhere and read what is private."""
_LARGE = (".ckpt", ".safetensors", ".png", ".gif", ".onnx", ".pt2")
"""What the Hub keeps as large files."""
_REPOSITORY = r"(?P<id>[\w.-]+/[\w.-]+)"
_REVISION = r"(?P<revision>[^/?]+)"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Stored:
    """A repository: the files of each commit, and which commit each branch is at."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def write(self, branch: str, files: Mapping[str, bytes]) -> str:
        """A new commit of all these files."""
        text = repr([branch, len(self.commits), sorted((name, sha(content)) for name, content in files.items())])
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]


@dataclass
class Hub:
    """What a server holds, and what it was asked.

    announced: sizes that it tells of files, in place of the true ones.
    """

    endpoint: str
    stored: dict[str, Stored] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    announced: dict[str, int] = field(default_factory=dict)

    def put(self, repository: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Let a repository have these files, as its owner's commit."""
        self.large |= {sha(content): content for content in files.values()}
        return self.stored.setdefault(repository, Stored()).write(branch, files)


class Refused(Exception):
    """An answer that is an error: its status, and the Hub's own name of it."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{self.command} {path}")
        try:
            for method, pattern, route in ROUTES:
                if self.command in method.split() and (found := re.fullmatch(pattern, path)):
                    route(self, **{name: unquote(value) for name, value in found.groupdict().items()})
                    return
            raise Refused(404, "EntryNotFound")
        except Refused as refused:
            self.send(refused.status, json.dumps({"error": refused.code}).encode(), {"X-Error-Code": refused.code})

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send(self, status: int, content: bytes, headers: Mapping[str, object] = {}) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def tell(self, content: object) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repository(self, id: str) -> Stored:
        found = self.hub.stored.get(id)
        if found is None or (found.private and not self.is_owner()):
            raise Refused(404 if self.is_owner() else 401, "RepoNotFound")
        if self.command == "POST" and not self.is_owner():
            raise Refused(401 if "Authorization" not in self.headers else 403, "Forbidden")
        return found

    def commit_of(self, id: str, revision: str) -> str:
        stored = self.repository(id)
        commit = stored.branches.get(revision, revision)
        if commit not in stored.commits:
            raise Refused(404, "RevisionNotFound")
        return commit

    def create(self) -> None:
        if not self.is_owner():
            raise Refused(401 if "Authorization" not in self.headers else 403, "Forbidden")
        asked = json.loads(self.body)
        id = f"{asked['organization']}/{asked['name']}"
        status = 409 if id in self.hub.stored else 200
        if status == 200:
            self.hub.stored[id] = Stored(asked.get("visibility") == "private" or asked.get("private") is True)
            self.hub.stored[id].write("main", {".gitattributes": b"*.ckpt filter=lfs\n"})
        self.send(status, json.dumps({"url": f"{self.hub.endpoint}/{id}"}).encode())

    def info(self, id: str, revision: str = "main") -> None:
        commit = self.commit_of(id, revision)
        stored = self.repository(id)
        names = [{"rfilename": name} for name in stored.commits[commit]]
        self.tell({"id": id, "modelId": id, "sha": commit, "private": stored.private, "siblings": names, "tags": []})

    def tree(self, id: str, revision: str) -> None:
        files = self.repository(id).commits[self.commit_of(id, revision)]
        self.tell([self._entry(name, content) for name, content in files.items()])

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        size = self.hub.announced.get(name, len(content))
        entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(content).hexdigest()}
        return entry | ({"lfs": {"oid": sha(content), "size": size, "pointerSize": 134}} if _is_large(name) else {})

    def resolve(self, id: str, revision: str, name: str) -> None:
        commit = self.commit_of(id, revision)
        content = self.repository(id).commits[commit].get(name)
        if content is None:
            raise Refused(404, "EntryNotFound")
        etag = sha(content) if _is_large(name) else hashlib.sha1(content).hexdigest()
        size = self.hub.announced.get(name, len(content))
        self.send(200, content, {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": size})

    def check_card(self) -> None:
        self.tell({"errors": [], "warnings": []})

    def preupload(self, id: str, revision: str) -> None:
        self.commit_of(id, revision)
        self.repository(id)
        asked = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {True: "lfs", False: "regular"}
        self.tell({"files": [{"path": p, "uploadMode": modes[_is_large(p)], "shouldIgnore": False} for p in asked]})

    def batch(self, id: str) -> None:
        self.repository(id)
        objects = json.loads(self.body)["objects"]
        for entry in objects:
            if entry["oid"] not in self.hub.large:
                entry["actions"] = {"upload": {"href": f"{self.hub.endpoint}/large/{entry['oid']}"}}
        self.tell({"transfer": "basic", "objects": objects})

    def take(self, oid: str) -> None:
        assert sha(self.body) == oid
        self.hub.large[oid] = self.body
        self.send(200, b"")

    def commit(self, id: str, revision: str) -> None:
        stored = self.repository(id)
        files = dict(stored.commits[self.commit_of(id, revision)])
        for line in self.body.splitlines():
            key, value = (part := json.loads(line))["key"], part["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        commit = stored.write(revision, files)
        self.tell({"commitUrl": f"{self.hub.endpoint}/{id}/commit/{commit}", "commitOid": commit})

    def branch(self, id: str, revision: str) -> None:
        stored = self.repository(id)
        if revision in stored.branches:
            raise Refused(409, "Conflict")
        stored.branches[revision] = stored.branches["main"]
        self.tell({})


def _is_large(name: str) -> bool:
    return name.endswith(_LARGE)


ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.check_card),
    ("GET", f"/api/models/{_REPOSITORY}", Handler.info),
    ("GET", f"/api/models/{_REPOSITORY}/revision/{_REVISION}", Handler.info),
    ("GET", f"/api/models/{_REPOSITORY}/tree/{_REVISION}", Handler.tree),
    ("POST", f"/api/models/{_REPOSITORY}/preupload/{_REVISION}", Handler.preupload),
    ("POST", f"/api/models/{_REPOSITORY}/commit/{_REVISION}", Handler.commit),
    ("POST", f"/api/models/{_REPOSITORY}/branch/{_REVISION}", Handler.branch),
    ("POST", rf"/{_REPOSITORY}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/large/(?P<oid>[0-9a-f]{64})", Handler.take),
    ("GET HEAD", f"/{_REPOSITORY}/resolve/{_REVISION}/(?P<name>.+)", Handler.resolve),
]


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub on this machine."""
    hub = Hub("")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, hub)) as server:
        server.daemon_threads = True
        hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
