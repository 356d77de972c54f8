"""The packages, which pyproject.toml cannot both find and name: those below hfgen/, pipelines/ as hfgen.pipelines, demo/ as data."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["hfgen", "hfgen.*"]), "hfgen.pipelines", "hfgen.demo"],
    package_dir={"hfgen.pipelines": "pipelines", "hfgen.demo": "demo"},
)
