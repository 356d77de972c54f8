"""What went wrong on the way to or from the Hub, in the user's words."""

from __future__ import annotations

from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def hub_reason(error: Exception, repo: str, revision: str | None = None) -> str:
    """One line: what is the matter with `repo`, and the way out. For an error that `huggingface_hub` has raised."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, HFValidationError):
        return f"{repo!r} is neither a folder here nor a repository name: pass a path or user/name"
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token for the Hub: {LOG_IN}"
    if isinstance(error, GatedRepoError):
        return f"{repo} asks for its conditions to be accepted on its page first"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}: pass a branch, tag or commit that it has"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repo} is neither a folder here nor a repository on the Hub that you may see: check the name, or for a "
            f"private one {LOG_IN}"
        )
    if isinstance(error, LocalEntryNotFoundError):
        return (
            f"{repo} is no folder here, is not in the cache, and the Hub cannot be reached: "
            "check the path, or the network and HF_HUB_OFFLINE"
        )
    if isinstance(error, ValueError) and "README.md" in str(error):
        reason = " ".join(str(error).split())[:200]
        return f"the Hub does not accept the card ({reason}): mend the first block of README.md"
    if status == 401:
        return f"the Hub does not accept the token: {LOG_IN} to a valid one"
    if status == 403:
        return no_right(repo)
    return f"the Hub failed for {repo} ({_first_line(error)}): try again later"


def no_right(repo: str) -> str:
    """One line on a token that the Hub knows, but not as one that may write to `repo`."""
    return f"the token has no right to do that with {repo}: use one with write access, or a name in your namespace"


def _first_line(error: BaseException) -> str:
    if (
        type(error) is RuntimeError and error.__cause__ is not None
    ):  # the client puts it around what an upload failed for
        error = error.__cause__
    lines = [line.strip() for line in f"{error}".splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
