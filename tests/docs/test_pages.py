"""The README, the pages beside it, and the tables that are made from results."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

import hfgen

ROOT = Path(__file__).parents[2]
SITE = re.compile(
    r"https://(?:github\.com/hfgen/hfgen/(?:blob|tree)|raw\.githubusercontent\.com/hfgen/hfgen)/main/([^)#\s\"]+)"
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BESIDE = ["CHANGELOG.md", "CONTRIBUTING.md", "MODEL_ZOO.md", "SECURITY.md"]
MODELS = sorted(path.parent.name for path in (ROOT / "model_cards").glob("*/results.json"))


@pytest.fixture(scope="module")
def model_zoo():
    spec = importlib.util.spec_from_file_location("model_zoo", ROOT / ".ci" / "model_zoo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_zoo"] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules["model_zoo"]


def test_the_readme_is_a_front_door():
    assert 6000 <= len((ROOT / "README.md").read_bytes()) <= 8000


def test_the_readme_shows_on_a_package_index():
    """Whose pages have no files beside them."""
    text = (ROOT / "README.md").read_text()
    assert all(target.startswith("https://") for target in LINK.findall(text))
    assert "raw.githubusercontent.com" in text


@pytest.mark.parametrize("page", ["README.md", *BESIDE])
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text()
    inside = [target.partition("#")[0] for target in LINK.findall(text) if "://" not in target]
    assert [path for path in inside + SITE.findall(text) if not (ROOT / path).exists()] == []


def test_the_tables_of_models_are_up_to_date(model_zoo):
    assert model_zoo.main(["--check"]) == 0, "run python .ci/model_zoo.py"


@pytest.mark.parametrize("name", MODELS)
def test_the_zoo_tells_what_the_results_say(name):
    """Read here without the classes of hfgen.results."""
    folder = ROOT / "model_cards" / name
    parts = [
        json.loads(path.read_text()) for path in (folder / "results.json", folder / "samples.json") if path.is_file()
    ]
    numbers = {}
    for part in parts:
        groups = [part, *(part.get(key) or {} for key in ("likelihood", "samples") if isinstance(part.get(key), dict))]
        for group in groups:
            numbers.update(group.get("metrics") or {})
    likelihood, samples = (
        line for line in (ROOT / "MODEL_ZOO.md").read_text().splitlines() if line.startswith(f"| [{name}](")
    )
    keys = ["vlb_total", "negative_elbo", "negative_iw_bound"]
    bounds = [numbers.get(f"{key}_bits_per_dim") or numbers.get(key) for key in keys]
    for bound in filter(None, bounds):
        digits = 3 if bound["unit"] == "bits/dim" else 2
        assert f"{bound['mean']:.{digits}f} ± {bound['standard_error']:.{digits}f} {bound['unit']}" in likelihood
    assert f"{parts[0]['parameters']:,}" in likelihood
    for key in ("frechet", "precision", "recall"):
        assert f"{numbers[key]['mean']:.3f} ({numbers[f'{key}_floor']['mean']:.3f})" in samples


def test_a_table_that_is_not_up_to_date_is_told(model_zoo, tmp_path, monkeypatch, capsys):
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    (tmp_path / "README.md").write_text(f"before\n{model_zoo.BEGIN}\n{model_zoo.END}\nafter\n")
    monkeypatch.setattr(model_zoo, "ROOT", tmp_path)
    assert model_zoo.main(["--check"]) == 1
    assert capsys.readouterr().err.count("is not up to date") == 2
    assert model_zoo.main([]) == 0
    assert model_zoo.main(["--check"]) == 0
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("\nafter\n")
    assert all(f"`{name}`" in readme for name in MODELS)


def test_there_is_one_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == hfgen.__version__
