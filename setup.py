"""The packages, which pyproject.toml cannot both find and name: those below hfgen/, and pipelines/ as hfgen.pipelines."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["hfgen", "hfgen.*"]), "hfgen.pipelines"],
    package_dir={"hfgen.pipelines": "pipelines"},
)
