"""What a Hugging Face hub answers a client that creates a repository and pushes to it, in git-lfs's way or Xet's."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

XET_TOKEN = "of-xet-alone"


@dataclass
class Pushes:
    """The repositories that were created, and what was sent."""

    namespaces: set[str]
    """Where the account may write."""
    private: dict[str, bool] = field(default_factory=dict)
    """Of ``models/owner/name`` whether it is."""
    large: dict[str, bytes] = field(default_factory=dict)
    """Contents by their SHA-256."""
    commits: list[str] = field(default_factory=list)
    """Their summaries."""
    xorbs: dict[str, bytes] = field(default_factory=dict)
    """What came by Xet's protocol: blocks of chunks, by their hash."""
    shards: list[bytes] = field(default_factory=list)
    """Which chunks make which file, and its SHA-256."""

    def answer(
        self, path: str, body: bytes, address: str, repositories: dict[str, dict[str, bytes]]
    ) -> tuple[int, object]:
        """Status and document; a commit changes ``repositories``."""
        if match := re.fullmatch(r"/v1/xorbs/default/(\w+)", path):
            self.xorbs[match[1]] = body
            return 200, {"was_inserted": True}
        if path.endswith("/shards"):
            self.shards.append(body)
            return 200, {"type": "result", "result": 1}
        if path.startswith("/lfs/"):
            if path == "/lfs/verify":
                asked = json.loads(body)
                return (200 if len(self.large[asked["oid"]]) == asked["size"] else 422), {}
            if hashlib.sha256(body).hexdigest() != path.removeprefix("/lfs/"):
                return 400, {"error": "not that content"}
            self.large[path.removeprefix("/lfs/")] = body
            return 200, {}
        if path == "/api/validate-yaml":
            metadata = yaml.safe_load(re.split(r"^---$", json.loads(body)["content"], flags=re.MULTILINE)[1])
            missing = [name for name in ("license", "tags") if name not in metadata]
            return (400 if missing else 200), {"errors": [{"message": each} for each in missing], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body), address, repositories)
        if match := re.fullmatch(r"/(\S+)\.git/info/lfs/objects/batch", path):
            return 200, {
                "transfer": "basic",
                "objects": [self._object(each, address) for each in json.loads(body)["objects"]],
            }
        if match := re.fullmatch(r"/api/(models/\S+)/(preupload|commit)/main", path):
            name = match[1]
            if name.split("/")[1] not in self.namespaces:
                return 403, {"error": "Forbidden: you don't have write access"}
            if match[2] == "preupload":
                return 200, {"files": [mode(each) for each in json.loads(body)["files"]]}
            self._commit([json.loads(line) for line in body.splitlines()], repositories[name])
            return 200, {"commitUrl": f"{address}/{name}/commit/1", "commitOid": "1" * 40, "success": True}
        return 404, {"error": "Not found"}

    def xet_token(self, address: str) -> dict[str, Any]:
        """What lets a client write to Xet's storage, which is here too."""
        return {"casUrl": address, "accessToken": XET_TOKEN, "exp": 4_000_000_000}

    def _create(
        self, asked: dict[str, Any], address: str, repositories: dict[str, dict[str, bytes]]
    ) -> tuple[int, object]:
        name = f"models/{asked['organization']}/{asked['name']}"
        if asked["organization"] not in self.namespaces:
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        if name in repositories:
            return 409, {"error": "You already created this model repo", "url": f"{address}/{name}"}
        repositories[name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        self.private[name] = asked.get("visibility") == "private"
        return 200, {"url": f"{address}/{name.removeprefix('models/')}"}

    def _object(self, asked: dict[str, Any], address: str) -> dict[str, Any]:
        if asked["oid"] in self.large:
            return asked  # the hub has it
        upload = {"href": f"{address}/lfs/{asked['oid']}"}
        return {**asked, "actions": {"upload": upload, "verify": {"href": f"{address}/lfs/verify"}}}

    def _commit(self, lines: list[dict[str, Any]], files: dict[str, bytes]) -> None:
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    self.commits.append(value["summary"])
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    # Of what came by Xet only the hash is known here.
                    files[value["path"]] = self.large.get(value["oid"], value["oid"].encode())
                case "deletedFile":
                    del files[value["path"]]


def mode(file: dict[str, Any]) -> dict[str, Any]:
    """How the hub wants a file: git-lfs for weights and pictures."""
    large = file["path"].endswith((".safetensors", ".png"))
    return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
