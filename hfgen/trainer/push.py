"""A finished training to the Hub."""

from __future__ import annotations

import shlex

from huggingface_hub.utils import disable_progress_bars

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.hub.publish import check_account, publish_folder


def hub_repository(config: TrainingConfig) -> str | None:
    """The repository to push to, None without push_to_hub; asked before anything is trained.

    Raises `HfgenError` for a name or token that the Hub does not accept, and for flags without push_to_hub.
    """
    hub = config.hub
    if not hub.push_to_hub:
        given = [name for name in ("hub_model_id", "hub_token", "hub_private_repo") if getattr(hub, name)]
        if given:
            raise HfgenError(f"{', '.join(given)} without push_to_hub pushes nothing: pass --push_to_hub")
        return None
    try:
        return check_account(hub.hub_model_id or config.output_dir.resolve().name, token=hub.hub_token)
    except HfgenError as error:
        raise HfgenError(f"push_to_hub: {error}") from error


def push(config: TrainingConfig, repo: str) -> None:
    """Push the output folder and tell where to look; `HfgenError` says how to do it later."""
    output_dir, hub = config.output_dir, config.hub
    disable_progress_bars()  # one that an error stops leaves no new line for the message
    try:
        done = publish_folder(output_dir, repo, private=hub.hub_private_repo, token=hub.hub_token)
    except HfgenError as error:
        command = ["hfgen", "publish", str(output_dir), repo, *(["--private"] if hub.hub_private_repo else [])]
        raise HfgenError(
            f"the training is complete in {output_dir}, but it was not pushed: {error}; later: `{shlex.join(command)}`"
        ) from error
    print(f"pushed: {done.url}")
