"""Each folder under model_cards/ is a repository in miniature: pushed as it stands, it works for a stranger as its card says."""

import json
import re
import shutil
from pathlib import Path

import pytest
from hub_server import card_errors

from hfgen.hub.card import refresh_card
from hfgen.hub.loading import load

FOLDERS = sorted(path for path in (Path(__file__).parents[2] / "model_cards").iterdir() if path.is_dir())
CHECK = """
import os, sys
from PIL import Image
os.chdir(arguments[0])
Image.new("RGB", (int(arguments[2]), int(arguments[3]))).save("picture.png")
told = {}
exec(arguments[1], told)
found = next(told[name] for name in ("frames", "images", "image") if name in told)
answer["sizes"] = sorted({image.size for image in (found if isinstance(found, list) else [found])})
answer["hfgen"] = [name for name in sys.modules if name.split(".")[0] == "hfgen"]
"""

folders = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@pytest.fixture
def copy(tmp_path):
    """Copy a folder, as publishing may bring a card up to date."""
    return lambda folder: shutil.copytree(folder, tmp_path / folder.name)


@folders
def test_a_stranger_runs_the_cards_code_after_a_push(hub, ours, stranger, folder, copy, tmp_path):
    repo = f"alice/{folder.name}"
    ours.hfgen("publish", copy(folder), repo).check()
    pushed = hub.repositories[repo].files()
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(pushed) - {".gitattributes"} == {path for path in files if "__pycache__" not in path}
    card = pushed["README.md"].decode()
    assert card_errors(card) == []
    assert f"model_cards/{folder.name}" not in "".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert f'from_pretrained("{repo}"' in code
    index = json.loads(pushed["model_index.json"])
    assert ("trust_remote_code=True" in code) == isinstance(index["_class_name"], list)
    code = re.sub(r"num_inference_steps=\d+", "num_inference_steps=2", code)  # all of them take minutes
    height, width = load(folder).image_shape[-2:]
    stranger.forget()
    answer = stranger.run(CHECK, tmp_path, code, width, height, token=None).check().answer
    assert answer == {"sizes": [[width, height]], "hfgen": []}


@folders
def test_cards_are_up_to_date(folder, copy):
    """With the results file, if there is one: pushing then leaves a card as it stands."""
    path = refresh_card(load(copy(folder)))
    assert path.read_bytes() == (folder / "README.md").read_bytes()


@folders
def test_named_pictures_are_there(folder):
    named = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (folder / "README.md").read_text())
    assert "samples.png" in named
    assert all((folder / name).is_file() for name in named)
