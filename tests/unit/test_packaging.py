"""What `pip install` brings: everything that crowd imports, and nothing that it does not."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import setuptools

import crowd

ROOT = Path(__file__).parents[2]


@pytest.fixture
def metadata(monkeypatch):
    """Catch what setup.py tells setuptools."""
    told = {}
    monkeypatch.setattr(setuptools, "setup", told.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return told


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def required(metadata):
    return {normal(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in metadata["install_requires"]}


def imported():
    names = set()
    for path in (ROOT / "crowd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names.add(node.module.split(".")[0])
            elif isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
    return names - set(sys.stdlib_module_names) - {"crowd"}


def test_every_import_is_required(metadata):
    """Or belongs to an extra, and is imported where it is needed and not with its module."""
    distributions = packages_distributions()
    extras = {
        normal(re.match(r"[A-Za-z0-9._-]+", one)[0]) for one in metadata["extras_require"]["schema"]
    }
    for name in imported():
        wanted = {normal(one) for one in distributions[name]}
        assert wanted & (required(metadata) | extras), name


def test_nothing_of_an_extra_is_imported_unasked():
    code = "import sys, crowd.service, crowd.cli; sys.exit('jsonschema_rs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_engine_is_pinned_exactly(metadata):
    assert "pysyncobj==0.3.17" in metadata["install_requires"]


def test_version_and_commands(metadata):
    assert metadata["version"] == crowd.__version__
    assert metadata["entry_points"] == {"console_scripts": ["crowd = crowd.cli:main"]}
    assert metadata["python_requires"] == ">=3.11"


def test_every_package_and_the_plugin_are_installed(metadata):
    folders = {path.parent for path in (ROOT / "crowd").rglob("*.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(metadata["packages"]) == packages | {"twisted.plugins"}


def test_every_file_beside_the_modules_is_installed(metadata):
    patterns = metadata["package_data"]["crowd"]
    covered = {path for pattern in patterns for path in (ROOT / "crowd").glob(pattern)}
    others = {
        path
        for path in (ROOT / "crowd").rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    assert others == covered
