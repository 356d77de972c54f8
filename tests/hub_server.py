"""A small server that speaks the Hub's protocol on 127.0.0.1, for the real `huggingface_hub` client with Xet switched off.

It knows users by their tokens, private repositories, branches, pull requests, LFS and commits, and it can be told to fail.
By hand: `python tests/hub_server.py 8000`, then `HF_ENDPOINT=http://127.0.0.1:8000 HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_alice ...`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".png", ".bin", ".gif")
LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "bsd-3-clause", "openrail", "other")
TASKS = ("unconditional-image-generation", "text-to-image", "image-to-image", "text-to-video", "image-classification")


@dataclass
class Repository:
    """Commits (files by path) by their id, and what the branches point to, oldest commit first."""

    private: bool
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, list[str]] = field(default_factory=lambda: {"main": []})

    def commit(self, branch: str, files: dict[str, File]) -> str:
        content = sorted((path, file.oid) for path, file in files.items())
        sha = hashlib.sha1(f"{id(self)} {len(self.commits)} {content}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches.setdefault(branch, []).append(sha)
        return sha

    def resolve(self, revision: str) -> str | None:
        if revision in self.commits:
            return revision
        return (self.branches.get(revision) or [None])[-1]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        sha = self.resolve(revision)
        return {path: file.content for path, file in self.commits[sha].items()} if sha else {}


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """What the Hub compares an upload with: git's blob id, or the SHA-256 of an LFS file."""
        return self.sha256 if self.lfs else hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str = "", message: str = ""):
        self.status, self.code, self.message = status, code, message or code


@dataclass
class Fault:
    """Fail requests of `method` whose path matches `pattern`: with a status, or by closing the connection (None)."""

    method: str
    pattern: str
    status: int | None
    after: int = 0
    times: int = 10**9


def card_errors(text: str) -> list[str]:
    """What the Hub objects to in a card's metadata, in words; it does not read the rest."""
    match = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", text, re.DOTALL)
    if match is None:
        return []
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"the metadata is no YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata must be an object"]

    def texts(value):
        return isinstance(value, list) and all(isinstance(item, str) and item for item in value)

    rules = {
        "license": lambda v: v in LICENSES,
        "library_name": lambda v: isinstance(v, str),
        "pipeline_tag": lambda v: v in TASKS,
        "tags": texts,
        "datasets": lambda v: texts(v) and all(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) for name in v),
        "model-index": lambda v: isinstance(v, list) and len(v) == 1 and all(map(_is_measured, v)),
    }
    return [
        f"{key!r} is not valid: {data[key]!r}" for key, rule in rules.items() if key in data and not rule(data[key])
    ]


def _is_measured(model: dict) -> bool:
    def is_result(result):
        dataset, metrics = result.get("dataset", {}), result.get("metrics", [])
        return (
            result.get("task", {}).get("type") in TASKS
            and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", f"{dataset.get('type')}") is not None
            and isinstance(dataset.get("name"), str)
            and len(metrics) > 0
            and all(isinstance(m.get("type"), str) and isinstance(m.get("value"), (int, float)) for m in metrics)
        )

    return isinstance(model.get("name"), str) and bool(model.get("results")) and all(map(is_result, model["results"]))


class HubServer(ThreadingHTTPServer):
    """`with HubServer() as hub:` serves at `hub.url`; `hub.users` maps tokens to names."""

    daemon_threads = True

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.users = {"hf_alice": "alice", "hf_alice_reads": "alice", "hf_bob": "bob"}
        self.repositories: dict[str, Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()

    def fail(self, method: str, pattern: str, status: int | None = None, after: int = 0, times: int = 10**9) -> Fault:
        """Let the requests that match fail, all but the first `after`, `times` times."""
        self.faults.append(Fault(method, pattern, status, after, times))
        return self.faults[-1]

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_GET(self):
        self._answer("GET")

    def do_HEAD(self):
        self._answer("HEAD")

    def do_POST(self):
        self._answer("POST")

    def do_PUT(self):
        self._answer("PUT")

    def log_message(self, format, *args):
        pass

    def _answer(self, method: str):
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            self.server.requests.append((method, unquote(parts.path)))
            fault = self._fault(method, unquote(parts.path))
            if fault is not None and fault.status is None:
                self.close_connection = True
                return
            try:
                if fault is not None:
                    raise Refused(fault.status, message="the server was told to fail")
                status, headers, content = self._route(method, parts.path)
            except Refused as refused:
                status, content = refused.status, json.dumps({"error": refused.message}).encode()
                headers = {"X-Error-Code": refused.code} if refused.code else {}
                headers |= {"X-Error-Message": refused.message} if refused.message else {}
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(content)

    def _fault(self, method, path) -> Fault | None:
        for fault in self.server.faults:
            if fault.method == method and re.search(fault.pattern, path):
                fault.after -= 1
                if fault.after < 0 and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def _route(self, method, quoted_path):
        for verb, pattern, action in ROUTES:
            match = re.fullmatch(pattern, quoted_path)
            if match and verb == method.replace("HEAD", "GET"):
                result = action(self, *map(unquote, match.groups()))
                return result if isinstance(result, tuple) else (200, {}, json.dumps(result).encode())
        raise Refused(404, message=f"no such route: {method} {quoted_path}")

    def _user(self, needed: bool = False) -> str | None:
        words = self.headers.get("Authorization", "").split()
        if not words:
            if needed:
                raise Refused(401, message="Invalid username or password.")
            return None
        if words[-1] not in self.server.users:
            raise Refused(401, message="Invalid credentials in Authorization header")
        return self.server.users[words[-1]]

    def _role(self) -> str:
        return "read" if self.headers["Authorization"].endswith("_reads") else "write"

    def _repository(self, name: str, write: bool = False) -> Repository:
        user = self._user()
        repository = self.server.repositories.get(name)
        owner = name.removeprefix("spaces/").split("/")[0]
        if repository is None or (repository.private and user != owner):
            raise Refused(404 if user else 401, "RepoNotFound", "Repository not found")
        if write and user is None:
            raise Refused(401, message="Invalid username or password.")
        if write and (self._role() == "read" or (user != owner and "create_pr" not in self.query)):
            raise Refused(403, message=f"you have no write access to {name}")
        return repository

    def _commit_of(self, name: str, revision: str) -> tuple[str, dict[str, File]]:
        repository = self._repository(name)
        sha = repository.resolve(revision)
        if sha is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, repository.commits[sha]

    def whoami(self):
        name = self._user(needed=True)
        return {"type": "user", "name": name, "orgs": [], "auth": {"accessToken": {"role": self._role()}}}

    def create(self):
        user, wanted = self._user(needed=True), json.loads(self.body)
        owner = wanted.get("organization") or user
        name = f"{'spaces/' if wanted.get('type') == 'space' else ''}{owner}/{wanted['name']}"
        url = {"url": f"{self.server.url}/{name}", "id": name}
        if owner != user or self._role() == "read":
            raise Refused(403, message=f"you have no rights to create a model under {owner}")
        if name in self.server.repositories:
            return 409, {"X-Error-Message": "You already created this model repo"}, json.dumps(url).encode()
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.server.repositories[name] = repository = Repository(private)
        repository.commit("main", {".gitattributes": File(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")})
        return url

    def validate_yaml(self):
        errors = card_errors(json.loads(self.body)["content"])
        answer = {"errors": [{"message": error} for error in errors], "warnings": []}
        return (400, {}, json.dumps(answer).encode()) if errors else answer

    def branch(self, name, branch):
        repository = self._repository(name, write=True)
        if branch in repository.branches:
            raise Refused(409, message="Reference already exists")
        repository.branches[branch] = list(repository.branches["main"])
        return {}

    def preupload(self, name, revision):
        repository = self._repository(name, write=True)
        if "create_pr" not in self.query and revision != "main" and revision not in repository.branches:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        present = self._commit_of(name, revision)[1]
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                    "shouldIgnore": False,
                    "oid": present[file["path"]].oid if file["path"] in present else None,
                }
                for file in json.loads(self.body)["files"]
            ]
        }

    def lfs_batch(self, name):
        """Open to all who see the repository, as whoever opens a pull request uploads too."""
        self._repository(name)
        self._user(needed=True)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            known = asked["oid"] in self.server.lfs
            href = f"{self.server.url}/lfs/{asked['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            objects.append(asked if known else {**asked, "actions": actions})
        return {"transfer": "basic", "objects": objects}

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, message="the content is not what was announced")
        self.server.lfs[oid] = self.body
        return {}

    def lfs_verify(self, oid):
        if oid not in self.server.lfs:
            raise Refused(404, message="there is no such object")
        return {}

    def commit(self, name, revision):
        repository = self._repository(name, write=True)
        files = dict(self._commit_of(name, revision)[1])
        for line in self.body.splitlines():
            change = json.loads(line)
            value = change["value"]
            if change["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]))
            elif change["key"] == "lfsFile":
                if value["oid"] not in self.server.lfs:
                    raise Refused(400, message=f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = File(self.server.lfs[value["oid"]], lfs=True)
            elif change["key"] == "deletedFile":
                del files[value["path"]]
            elif change["key"] != "header":
                raise Refused(400, message=f"a change of kind {change['key']!r}")
        url = f"{self.server.url}/{name}"
        number = sum(b.startswith("refs/pr/") for b in repository.branches) + 1
        branch = f"refs/pr/{number}" if "create_pr" in self.query else revision
        sha = repository.commit(branch, files)
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{url}/commit/{sha}"}
        return answer | ({"pullRequestUrl": f"{url}/discussions/{number}"} if "create_pr" in self.query else {})

    def info(self, name, revision="main"):
        sha, files = self._commit_of(name, revision)
        siblings = [{"rfilename": path} for path in sorted(files)]
        private = self.server.repositories[name].private
        name = name.removeprefix("spaces/")
        return {"id": name, "modelId": name, "sha": sha, "private": private, "tags": [], "siblings": siblings}

    def tree(self, name, revision, folder=None):
        files = self._commit_of(name, revision)[1]
        return [
            {"type": "file", "path": path, "size": len(file.content), "oid": file.oid}
            | ({"lfs": {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}} if file.lfs else {})
            for path, file in sorted(files.items())
            if folder is None or path.startswith(f"{folder}/")
        ]

    def resolve(self, name, revision, path):
        sha, files = self._commit_of(name, revision)
        if path not in files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        file = files[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.oid}"', "Content-Type": "application/octet-stream"}
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": len(file.content)}
        return 200, headers, file.content


# a Space is called spaces/USER/NAME here, as in the addresses of its files
NAME = "((?:spaces/)?[^/]+(?:/[^/]+)?)"
KIND = "/api/(?:models/(?!spaces/)|(?=spaces/))"
REVISION = "([^/]+)"
ROUTES = (
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("POST", f"{KIND}{NAME}/branch/{REVISION}", Handler.branch),
    ("POST", f"{KIND}{NAME}/preupload/{REVISION}", Handler.preupload),
    ("POST", f"/{NAME}.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", Handler.lfs_put),
    ("POST", "/lfs/([0-9a-f]{64})/verify", Handler.lfs_verify),
    ("POST", f"{KIND}{NAME}/commit/{REVISION}", Handler.commit),
    ("GET", f"{KIND}{NAME}", Handler.info),
    ("GET", f"{KIND}{NAME}/revision/{REVISION}", Handler.info),
    ("GET", f"{KIND}{NAME}/tree/{REVISION}", Handler.tree),
    ("GET", f"{KIND}{NAME}/tree/{REVISION}/(.+)", Handler.tree),
    ("GET", f"/{NAME}/resolve/{REVISION}/(.+)", Handler.resolve),
)


if __name__ == "__main__":
    with HubServer(int(sys.argv[1])) as server:
        print(f"{server.url}, tokens: {', '.join(server.users)}", flush=True)
        threading.Event().wait()
