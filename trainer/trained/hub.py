"""An exported folder on the hub: its repository, private if asked, and all files in one commit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from galore.trainer.common.errors import RunFailed, UserError

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # a token is never read from anywhere else


def require_push(name: str) -> None:
    """Check before any work that `name` can be pushed to: its form, the token, and that the hub knows it.

    Raises:
        UserError: the name is none, there is no token, or the hub refuses it or cannot be reached.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"is no name of a repository: {error}", where=name, fix="write OWNER/MODEL") from error
    try:
        _api().whoami()
    except UserError:
        raise
    except Exception as error:  # the hub's, httpx's and the system's own
        raise UserError(f"the hub cannot be used: {error}", where=name, fix="check HF_TOKEN and the network") from error


def push(folder: Path, name: str, private: bool) -> str:
    """Upload `folder`, which is whole, to the model repository `name`, which is made if there is none. Returns its URL.

    Raises:
        UserError: it is to be private, and is there and public.
        RunFailed: the hub refused it, or the network broke off; the folder stays.
    """
    api = _api()
    try:
        made = api.create_repo(name, private=private or None, exist_ok=True)
        seen = bool(api.repo_info(made.repo_id).private)
    except Exception as error:
        raise _broke_off(folder, name, error) from error
    if private and not seen:
        what = "is there already and public: nothing was sent"
        raise UserError(what, where=made.repo_id, fix="make it private on the hub, or push to another name")
    try:
        api.upload_folder(folder_path=folder, repo_id=made.repo_id, commit_message="Upload a model trained with galore")
    except Exception as error:
        raise _broke_off(folder, made.repo_id, error) from error
    return str(made)


def _api() -> Any:
    from huggingface_hub import HfApi

    token = next((os.environ[name] for name in TOKENS if os.environ.get(name)), None)
    if token is None:
        what = "needs a token that may write, and there is no HF_TOKEN in the environment"
        raise UserError(what, where="--push", fix="set HF_TOKEN to one from the settings of your account")
    return HfApi(token=token)


def _broke_off(folder: Path, name: str, error: Exception) -> RunFailed:
    fix = f"the export is whole: hf upload {name} {folder}"
    return RunFailed(f"cannot push to {name}: {error}", where=str(folder), fix=fix)
