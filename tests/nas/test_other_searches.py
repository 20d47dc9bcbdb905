"""The snippets of docs/search.md for the searches of other libraries, where these are installed."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "search.md"
SNIPPETS = dict(
    re.findall(r"<!-- needs: ([\w.]+) -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
)
PACKAGES = {"neps": "neural-pipeline-search", "ray.tune": "ray[tune]"}


@pytest.mark.slow
@pytest.mark.parametrize("module", PACKAGES)
def test_a_snippet_searches_a_space_with_a_scorer(module: str, tmp_path: Path) -> None:
    if find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"{module} is not installed: pip install '{PACKAGES[module]}'")
    script = tmp_path / "search.py"
    script.write_text(SNIPPETS[module], encoding="utf-8")
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True, timeout=300)
    assert any((tmp_path / "runs").rglob("*"))


def test_every_snippet_is_tested() -> None:
    assert set(SNIPPETS) == set(PACKAGES)
