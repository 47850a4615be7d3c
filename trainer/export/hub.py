"""An exported folder onto the Hugging Face hub, with its own client."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import UsageError
from trainer.importers.hub import client, reason

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_REPLACED = ["*.safetensors", "*.safetensors.index.json", "plots/*.png"]
"""What an earlier push left and this one does not have goes; everything else in the repository stays."""


@dataclass(frozen=True)
class Repository:
    """A model repository on the hub that this account may write to."""

    id: str
    api: HfApi


def opened(repo_id: str, *, public: bool = False) -> Repository:
    """The repository ``OWNER/NAME``, created unless it exists; private unless ``public``.

    Asks the hub before anything is read or hashed. Raises ``UsageError`` for a name that is none, without a token or
    with one that may not write, and for a repository that exists and is public although ``public`` is false.
    """
    api = client()
    from huggingface_hub import errors, get_token
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except errors.HFValidationError as error:
        raise UsageError(f"{repo_id!r} is no name of a repository: {reason(error)}", "Write OWNER/NAME.") from None
    if repo_id.count("/") != 1:
        raise UsageError(f"{repo_id!r} is no name of a repository.", "Write OWNER/NAME, the owner too.")
    if not (api.token or get_token()):
        raise UsageError(
            "There is no token for the Hugging Face hub.",
            "Set HF_TOKEN (or HF_TOKEN_FILE) to one that may write, or sign in with `hf auth login`.",
        )
    with _explained(repo_id):
        api.create_repo(repo_id, private=not public, exist_ok=True)
        if not public and not api.repo_info(repo_id).private:
            raise UsageError(
                f"{repo_id} is there already, and public: everybody could read what is pushed.",
                "Add --public, or push to another name.",
            )
    return Repository(repo_id, api)


def push(repository: Repository, folder: Path, message: str) -> str:
    """Upload ``folder`` in one commit, large files as the hub keeps them; the page of the repository.

    Files that the hub has already are not sent again. Raises ``UsageError`` when the hub refuses or can't be reached.
    """
    import huggingface_hub

    huggingface_hub.utils.disable_progress_bars()
    with _explained(repository.id):
        repository.api.upload_folder(
            repo_id=repository.id, folder_path=folder, commit_message=message, delete_patterns=_REPLACED
        )
    return f"{repository.api.endpoint}/{repository.id}"


@contextmanager
def _explained(repo_id: str) -> Generator[None]:
    from huggingface_hub import errors

    try:
        yield
    except UsageError:
        raise
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            problem, cure = "does not accept the token", "Make a new one on the hub, and set HF_TOKEN to it."
        elif status in (403, 404):
            problem = f"does not let this account write to {repo_id}"
            cure = "The token needs the right to write, and the account a place in that organization."
        else:
            problem, cure = f"did not take {repo_id} ({reason(error)})", "Try again; what it has is not sent again."
        raise UsageError(f"The Hugging Face hub {problem}.", cure) from error
    except Exception as error:  # the client lets through the errors of whichever HTTP library it is built on
        raise UsageError(
            f"{repo_id} could not be pushed to the Hugging Face hub ({reason(error)}).",
            "Is there a way to the hub from here (HF_ENDPOINT, HTTPS_PROXY)? What it has is not sent again.",
        ) from error
