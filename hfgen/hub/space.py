"""A demo page of trained models to the Hub, as a Space, in one commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitOperationAdd, HfApi, SpaceCard, get_token
from huggingface_hub.utils import filter_repo_objects

import hfgen
from hfgen.core.errors import HfgenError
from hfgen.hub.card import CARD_FILE
from hfgen.hub.errors import hub_reason
from hfgen.hub.files import check_secrets, content, repository_files
from hfgen.hub.loading import DOWNLOADED, load_folder
from hfgen.hub.publish import Published, check_account, check_target, push

PAGE, APP, MODELS = "demo", "app.py", "model_cards"


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Files of a folder, and the folder of the Space that they go to."""

    folder: Path
    files: Sequence[Path]
    place: PurePosixPath


def page_folder() -> Path:
    """Where the page lies: in an installed hfgen inside of it, in a clone beside it. `HfgenError` where it is missing."""
    package = Path(hfgen.__file__).parent
    found = next((place for place in (package / PAGE, package.parent / PAGE) if (place / APP).is_file()), None)
    if found is None:
        raise HfgenError(f"{package / PAGE} is missing: install hfgen again, or take it from a clone")
    return found


def publish_space(
    repo: str,
    models: Sequence[str | Path],
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> Published:
    """Push the demo page as a Space of these models; the Space is made if missing.

    Of a folder what loading needs goes along, with the JSON files that hfgen writes; a repository on the Hub is named in the Space's
    card, and the page fetches it when it starts. The other arguments are those of `publish_folder`.

    Raises `HfgenError` as that does, for no model, for two folders of one name, and for a repository that the page could not fetch.
    """
    check_target(repo, revision, create_pr)
    if not models:
        raise HfgenError("a Space needs models to show: name folders, or repositories on the Hub")
    page, folders = page_folder(), [Path(model) for model in models if Path(model).exists()]
    parts = [_page(page), *(_model(folder) for folder in folders)]
    _check_names(parts)
    for part in parts:
        check_secrets(part.folder, part.files, (token, get_token()))
    repo = check_account(repo, token=token, create_pr=create_pr)
    named = [str(model) for model in models if Path(model) not in folders]
    for name in named:
        _check_public(name)
    operations = [CommitOperationAdd(*file) for part in parts for file in _uploads(part, named)]
    url, changed = push(
        repo,
        operations,
        "Upload the demo page",
        private=private,
        revision=revision,
        create_pr=create_pr,
        token=token,
        space=True,
    )
    return Published(repo=repo, url=url, files=len(operations), changed=changed, left=())


def _page(folder: Path) -> _Part:
    files = [Path(path.name) for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return _Part(folder=folder, files=files, place=PurePosixPath())


def _model(folder: Path) -> _Part:
    """What `hfgen.load` would fetch of it, so that the page has that and no more."""
    belonging = repository_files(folder, load_folder(folder)).pushed
    files = list(filter_repo_objects(belonging, allow_patterns=DOWNLOADED, key=Path.as_posix))
    return _Part(folder=folder, files=files, place=PurePosixPath(MODELS, folder.resolve().name))


def _check_names(parts: Sequence[_Part]) -> None:
    places = [part.place for part in parts]
    for part in parts:
        if places.count(part.place) > 1:
            raise HfgenError(f"{part.folder}: two models are called {part.place.name}: rename the folder of one")


def _check_public(name: str) -> None:
    """As the page will look for it: without a token."""
    try:
        HfApi(token=False).model_info(name)
    except Exception as error:  # the client lets the errors of its HTTP library through
        raise HfgenError(f"{hub_reason(error, name)}; a Space sees public repositories alone") from error


def _uploads(part: _Part, named: Sequence[str]) -> Iterator[tuple[str, bytes | Path]]:
    for path in part.files:
        data = content(part.folder, path)
        if part.place == PurePosixPath() and path.name == CARD_FILE and named:
            data = _naming(part.folder / path, named)
        yield str(part.place / path.as_posix()), data


def _naming(card: Path, named: Sequence[str]) -> bytes:
    """The Space's card with the repositories that the page fetches."""
    space = SpaceCard.load(card)
    space.data.models = list(named)
    return str(space).encode()
