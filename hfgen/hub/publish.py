"""A pipeline's folder to the Hub, in one commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from hfgen.errors import HfgenError
from hfgen.hub.card import CARD_FILE, refresh_card, with_repository
from hfgen.hub.errors import hub_reason, no_right
from hfgen.hub.files import content, repository_files
from hfgen.loading import load_pipeline

BRANCH = "main"


@dataclass(frozen=True)
class Published:
    """`repo` as user/name, the address to look at, how many files it has from here, and whether there was anything to commit."""

    repo: str
    url: str
    files: int
    changed: bool


def publish_folder(
    folder: str | Path,
    repo: str,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> Published:
    """Check a pipeline's folder, bring its card up to date and push it; the repository and the branch are made if missing.

    Everything is committed at once: a push that breaks off leaves the files of the repository as they were, and the next
    one goes on. Training state (checkpoints, logs) and hidden files stay here; files of the repository that the folder
    does not have stay there.

    Args:
        folder: of a pipeline, such as a trainer's output_dir.
        repo: user/name, or a name in the namespace of the token's user.
        private: make a new repository private.
        revision: branch to commit to; by default main.
        create_pr: open a pull request instead of committing.
        token: by default HF_TOKEN or that of `hf auth login`.

    Raises `HfgenError` for a folder that strangers could not load, a name or token that the Hub does not accept, a public
    repository where a private one is asked for, and a Hub that fails.
    """
    folder = Path(folder)
    if create_pr and revision not in (None, BRANCH):
        raise HfgenError(f"revision={revision!r} with create_pr: a pull request is made for main; pass one of the two")
    refresh_card(folder, load_folder(folder))
    files = repository_files(folder)
    repo = check_account(repo, token, create_pr)
    api = HfApi(token=token)
    try:
        before = _prepare(api, repo, private, revision, create_pr)
        operations = [CommitOperationAdd(path.as_posix(), _upload(folder, path, repo)) for path in files]
        commit = api.create_commit(
            repo, operations, commit_message=f"Upload {folder.resolve().name}", revision=revision, create_pr=create_pr
        )
    except HfgenError:
        raise
    except Exception as error:  # the client lets the errors of its HTTP library through
        raise HfgenError(
            f"{hub_reason(error, repo, revision)} (a push is one commit or none, and can be repeated)"
        ) from error
    return Published(repo, commit.pr_url or f"{commit.commit_url}", len(files), commit.oid != before)


def check_account(repo: str, token: str | None = None, create_pr: bool = False) -> str:
    """`repo` with its namespace, by default that of the token's user, once the Hub has accepted both.

    Raises `HfgenError` for a name that cannot be one, for no or a wrong token, for one that may only read or not write to
    that namespace (except to `create_pr`), and for a Hub that does not answer.
    """
    try:
        validate_repo_id(repo)
        user = HfApi(token=token).whoami()
    except HFValidationError as error:
        raise HfgenError(f"{repo!r} is no name of a repository: pass user/name, or a name in your namespace") from error
    except Exception as error:  # as above
        raise HfgenError(hub_reason(error, repo)) from error
    repo = repo if "/" in repo else f"{user['name']}/{repo}"
    namespaces = [user["name"], *(organization["name"] for organization in user.get("orgs", []))]
    role = ((user.get("auth") or {}).get("accessToken") or {}).get(
        "role"
    )  # of another kind only the Hub knows what it may do
    if role == "read" or (role == "write" and not create_pr and repo.split("/")[0] not in namespaces):
        raise HfgenError(no_right(repo))
    return repo


def load_folder(folder: Path):
    """The pipeline of a local folder; `HfgenError` where `load_pipeline` has one, and for no folder."""
    if not folder.is_dir():
        raise HfgenError(f"{folder} is no folder: pass that of a pipeline, such as the --output_dir of a training")
    return load_pipeline(folder)


def _prepare(api: HfApi, repo: str, private: bool, revision: str | None, create_pr: bool) -> str:
    """Make what is missing; returns the commit that the branch is at."""
    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private or None)
        info = api.model_info(repo)
    if private and not info.private:
        raise HfgenError(f"{repo} is public already: make it private in its settings, or leave --private out")
    if revision in (None, BRANCH) or create_pr:
        return info.sha
    api.create_branch(repo, branch=revision, exist_ok=True)
    return api.model_info(repo, revision=revision).sha


def _upload(folder: Path, path: Path, repo: str) -> bytes | Path:
    if path.as_posix() == CARD_FILE:
        return with_repository((folder / path).read_text(), folder.resolve().name, repo).encode()
    return content(folder, path)
