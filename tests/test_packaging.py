"""What is installed is what stands in the tree: built as `pip install` builds it, without a network."""

import configparser
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import gtn_lightning

ROOT = Path(__file__).parent.parent
# A folder of the tree -> where an installation has it.
INSTALLED_AS = {
    "gtn_lightning": "gtn_lightning",
    "callbacks": "gtn_lightning/callbacks",
    "recipes": "gtn_lightning/recipes",
    "zoo": "gtn_lightning/zoo",
}


def test_parts_of_the_package_need_no_import_of_their_own() -> None:
    program = (
        "import sys, gtn_lightning; assert 'nas' in dir(gtn_lightning); gtn_lightning.trust.find;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tree, built from a copy, since setuptools packs what an earlier build left in build/."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in INSTALLED_AS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
    ]
    built = subprocess.run([*command, source], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("gtn_lightning-*.whl")
    return path


@pytest.mark.slow
def test_wheel_carries_every_module_and_every_recipe(wheel: Path) -> None:
    wanted = {"gtn_lightning/py.typed"}
    for folder, package in INSTALLED_AS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".yaml", ".safetensors"}:
                wanted.add(f"{package}/{path.relative_to(ROOT / folder).as_posix()}")
    assert {"gtn_lightning/callbacks/__init__.py", "gtn_lightning/recipes/digits.yaml"} <= wanted

    carried = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert carried == wanted, "does setup.cfg list every subpackage?"


@pytest.mark.slow
def test_installed_wheel_imports_away_from_the_tree(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        "import gtn_lightning.callbacks, gtn_lightning.cli, importlib.resources as r;"
        "print(gtn_lightning.callbacks.__file__, r.files('gtn_lightning.recipes') / 'digits.yaml')"
    )
    # Python puts the working folder first on its path, as it does for a script in a user's own folder.
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [Path(line).is_relative_to(tmp_path) for line in ran.stdout.split()] == [True, True]
    assert Path(ran.stdout.split()[1]).is_file()


@pytest.mark.slow
def test_wheel_says_what_it_is(wheel: Path) -> None:
    (folder,) = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" in name}
    read = zipfile.ZipFile(wheel).read
    metadata = importlib.metadata.PathDistribution(zipfile.Path(wheel, f"{folder}/")).metadata
    assert metadata["Version"] == gtn_lightning.__version__ == importlib.metadata.version("gtn-lightning")
    assert "Apache License" in read(f"{folder}/licenses/LICENSE").decode()
    assert "gtn = gtn_lightning.cli:main" in read(f"{folder}/entry_points.txt").decode()


def test_constraints_pin_every_direct_requirement_within_its_bounds() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    declared = "\n".join([config["options"]["install_requires"], *extras.values()])
    required = {r.name: r for r in map(Requirement, declared.split())}
    pins = re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)

    # An extra may name the package itself, and setuptools is what builds it rather than what it runs on.
    assert {name for name, _ in pins} == required.keys() - {"gtn-lightning", "setuptools"}
    for name, version in pins:
        assert required[name].specifier.contains(version), f"{name}=={version}"


def test_make_runs_recipes_that_exist() -> None:
    named = re.findall(r"\$\(call fit,(\w+)\)|recipes/(\w+)\.yaml", (ROOT / "Makefile").read_text())
    recipes = {first or second for first, second in named}
    assert "mnist_cpu" in recipes
    assert [name for name in recipes if not (ROOT / f"recipes/{name}.yaml").is_file()] == []


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = {name for line in re.findall(r"^\.PHONY: (.*)", text, flags=re.MULTILINE) for name in line.split()}
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listed.splitlines() if line.startswith("  ")} == targets
