"""Pushing, at the boundary of the hub's library: what it is asked, and that what it refuses loses nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.trained.hub import push, require_push


class _Hub:
    def __init__(self, public: bool = False, broken: str = "") -> None:
        self.calls, self.public, self.broken = list[Any](), public, broken

    def __call__(self, token: str) -> _Hub:
        self.token = token
        return self

    def _call(self, name: str, *given: Any) -> None:
        self.calls.append((name, *given))
        if name == self.broken:
            raise OSError("403 Forbidden")

    def whoami(self) -> None:
        self._call("whoami")

    def create_repo(self, name: str, private: bool | None, exist_ok: bool) -> Any:
        self._call("create", name, private, exist_ok)

        class Url(str):
            repo_id = f"me/{name}"

        return Url(f"https://hub.example/me/{name}")

    def repo_info(self, name: str) -> Any:
        return SimpleNamespace(private=not self.public)

    def upload_folder(self, folder_path: Path, repo_id: str, commit_message: str) -> None:
        self._call("upload", folder_path, repo_id)


def _hub(monkeypatch: pytest.MonkeyPatch, **how: Any) -> _Hub:
    hub = _Hub(**how)
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    return hub


def test_one_repository_one_upload(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = _hub(monkeypatch)
    require_push("mine")
    assert push(tmp_path, "mine", private=True) == "https://hub.example/me/mine"
    assert hub.calls == [("whoami",), ("create", "mine", True, True), ("upload", tmp_path, "me/mine")]
    assert hub.token == "hf_of_the_environment"
    push(tmp_path, "mine", private=False)
    assert ("create", "mine", None, True) in hub.calls


def test_what_is_to_be_private_is_sent_to_nothing_public(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = _hub(monkeypatch, public=True)
    with pytest.raises(UserError, match=r"me/mine: is there already and public: nothing was sent"):
        push(tmp_path, "mine", private=True)
    assert [name for name, *_ in hub.calls] == ["create"]


def test_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/b/c", "-x", "a b"):
        with pytest.raises(UserError, match=r"is no name of a repository"):
            require_push(name)
    _hub(monkeypatch, broken="whoami")
    with pytest.raises(UserError, match=r"mine: the hub cannot be used: 403 Forbidden"):
        require_push("mine")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"--push: needs a token .* no HF_TOKEN in the environment"):
        require_push("mine")


@pytest.mark.parametrize("broken", ["create", "upload"])
def test_an_upload_that_breaks_off_leaves_the_export(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: str
) -> None:
    _hub(monkeypatch, broken=broken)
    with pytest.raises(RunFailed, match=r"cannot push to .*mine: 403 Forbidden\n.*the export is whole: hf upload"):
        push(tmp_path, "mine", private=False)
