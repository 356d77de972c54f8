"""A pipeline's folder to the Hub, in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from hfgen.core.errors import HfgenError
from hfgen.hub.card import CARD_FILE, refresh_card, with_repository
from hfgen.hub.errors import hub_reason, no_right
from hfgen.hub.files import check_secrets, content, repository_files
from hfgen.hub.loading import load_folder

BRANCH = "main"
SPACE, SDK = "space", "gradio"


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a push has done.

    Attributes:
        repo: as user/name.
        url: the address to look at.
        files: how many it has from here.
        changed: whether there was anything to commit.
        left: names of what stayed, a folder with a slash.
    """

    repo: str
    url: str
    files: int
    changed: bool
    left: Sequence[str]


def publish_folder(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    include: Sequence[str] = (),
) -> Published:
    """Check a pipeline's folder, bring its card up to date and push it; the repository and the branch are made if missing.

    Everything is committed at once: a push that breaks off leaves the files of the repository as they were, and the next
    one goes on. Only what belongs to the pipeline is pushed (see `repository_files`); files of the repository that the
    folder does not have stay there.

    Args:
        folder: of a pipeline, such as a trainer's output_dir.
        repo: user/name, or a name in the namespace of the token's user.
        private: make a new repository private.
        revision: branch to commit to; by default main.
        create_pr: open a pull request instead of committing.
        token: by default HF_TOKEN or that of `hf auth login`.
        include: patterns of other files and folders to push, such as "notes.txt" or "curves/*.csv".

    Raises `HfgenError` for a folder that strangers could not load or whose files they should not have, a name or token that
    the Hub does not accept, a public repository where a private one is asked for, and a Hub that fails.
    """
    folder = Path(folder)
    check_target(repo, revision, create_pr)
    model = load_folder(folder)
    repository_files(folder, model, include)  # what it refuses it refuses before the card is written
    refresh_card(model)
    files = repository_files(folder, model, include)
    check_secrets(folder, files.pushed, (token, get_token()))
    repo = check_account(repo, token=token, create_pr=create_pr)
    operations = [CommitOperationAdd(path.as_posix(), _upload(folder, path, repo)) for path in files.pushed]
    message = f"Upload {folder.resolve().name}"
    url, changed = push(repo, operations, message, private=private, revision=revision, create_pr=create_pr, token=token)
    return Published(repo=repo, url=url, files=len(files.pushed), changed=changed, left=files.left)


def push(
    repo: str,
    operations: Sequence[CommitOperationAdd],
    message: str,
    *,
    private: bool,
    revision: str | None,
    create_pr: bool,
    token: str | None,
    space: bool = False,
) -> tuple[str, bool]:
    """Commit files to a repository, or to a Space, which is made if missing; the address to look at, and whether anything changed.

    Raises `HfgenError` as `publish_folder` does for what the Hub refuses.
    """
    api, kind = HfApi(token=token), SPACE if space else None
    try:
        before = _prepare(api, repo, kind, private=private, revision=revision, create_pr=create_pr)
        commit = api.create_commit(
            repo, operations, commit_message=message, repo_type=kind, revision=revision, create_pr=create_pr
        )
    except HfgenError:
        raise
    except Exception as error:  # the client lets the errors of its HTTP library through
        raise HfgenError(
            f"{hub_reason(error, repo, revision)} (a push is one commit or none, and can be repeated)"
        ) from error
    return commit.pr_url or f"{commit.commit_url}", commit.oid != before


def check_account(repo: str, *, token: str | None = None, create_pr: bool = False) -> str:
    """`repo` with its namespace, by default that of the token's user, once the Hub has accepted both.

    Raises `HfgenError` for a name that cannot be one, for no or a wrong token, for one that may only read or not write to
    that namespace (except to `create_pr`), and for a Hub that does not answer.
    """
    _check_name(repo)
    try:
        user = HfApi(token=token).whoami()
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


def check_target(repo: str, revision: str | None, create_pr: bool) -> None:
    """Raise `HfgenError` for a name that cannot be one, and for a branch beside a pull request."""
    if create_pr and revision not in (None, BRANCH):
        raise HfgenError(f"revision={revision!r} with create_pr: a pull request is made for main; pass one of the two")
    _check_name(repo)


def _check_name(repo: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise HfgenError(f"{repo!r} is no name of a repository: pass user/name, or a name in your namespace") from error


def _prepare(
    api: HfApi, repo: str, kind: str | None, *, private: bool, revision: str | None, create_pr: bool
) -> str | None:
    """Make what is missing; returns the commit that the branch is at."""
    try:
        info = api.repo_info(repo, repo_type=kind)
    except RepositoryNotFoundError:
        api.create_repo(repo, repo_type=kind, private=private or None, space_sdk=SDK if kind == SPACE else None)
        info = api.repo_info(repo, repo_type=kind)
    if private and not info.private:
        raise HfgenError(f"{repo} is public already: make it private in its settings, or leave --private out")
    if revision in (None, BRANCH) or create_pr:
        return info.sha
    api.create_branch(repo, repo_type=kind, branch=revision, exist_ok=True)
    return api.repo_info(repo, repo_type=kind, revision=revision).sha


def _upload(folder: Path, path: Path, repo: str) -> bytes | Path:
    if path.as_posix() == CARD_FILE:
        return with_repository((folder / path).read_text(encoding="utf-8"), folder.resolve().name, repo).encode()
    return content(folder, path)
