"""Imports every module of an installed hfgen and loads what the package ships; says how many. Argument: the folder it must lie in."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import hfgen
from hfgen.evaluation.networks import load_feature_network
from hfgen.hub.card import TEMPLATE
from hfgen.hub.space import page_folder


def main(folder: str) -> None:
    modules = [m.name for m in pkgutil.walk_packages(hfgen.__path__, "hfgen.") if "__main__" not in m.name]
    for module in modules:
        importlib.import_module(module)
    assert TEMPLATE.is_file()
    assert {path.name for path in page_folder().iterdir()} >= {"README.md", "app.py", "requirements.txt"}
    assert page_folder().is_relative_to(folder), page_folder()
    assert load_feature_network().num_features == 64
    assert Path(hfgen.__file__).is_relative_to(folder), hfgen.__file__
    assert {"hfgen.pipelines.saving", "hfgen.trainer.train"} <= set(modules), modules
    print("wheel", hfgen.__version__, "imports", len(modules), "modules")


if __name__ == "__main__":
    main(sys.argv[1])
