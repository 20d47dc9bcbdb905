"""The documentation site: every page is reachable, every link leads to a file, and marked commands work."""

import glob
import importlib.util
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gtn_lightning.cli import main
from gtn_lightning.cli.front_door import COMMAND_HELP

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not path.is_relative_to(DOCS / "site"))
MARKED = re.compile(r"<!-- tested: (\w+) -->\n```(\w*)\n(.*?)```", re.DOTALL)
"""How a block is tested, its language, its text."""


def module(name: str) -> Any:
    """A module of docs/site, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


LINKS = module("links")


def in_navigation(entries: Any) -> Iterator[str]:
    """The paths of a navigation."""
    if isinstance(entries, str):
        yield entries
        return
    for entry in entries.values() if isinstance(entries, dict) else entries:
        yield from in_navigation(entry)


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = list(in_navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    notebooks = [f"notebooks/{path.stem}.md" for path in DOCS.glob("notebooks/*.ipynb")]
    pages = [path.relative_to(DOCS).as_posix() for path in PAGES]
    assert sorted(navigation) == sorted([*pages, *notebooks, *LINKS.PAGES.values()])


def test_relative_links_lead_to_files() -> None:
    sources = [*PAGES, *(ROOT / name for name in ("README.md", *LINKS.PAGES))]
    missing = {
        f"{path.relative_to(ROOT)}: {target}"
        for path in sources
        for target in LINKS.targets(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
        if not (ROOT / target).exists()
    }
    assert missing == set()


def test_a_page_links_only_to_what_the_site_shows() -> None:
    for source, page in [("SECURITY.md", "security.md"), *((f"docs/{p.relative_to(DOCS)}", None) for p in PAGES)]:
        page = page or source.removeprefix("docs/")
        text = LINKS.rewritten((ROOT / source).read_text(encoding="utf-8"), source, page, ROOT)
        for target in LINKS.targets(text, f"docs/{page}"):
            assert target.startswith("docs/"), f"{source} links to {target}"


@pytest.mark.parametrize(
    ("source", "page", "link", "shown"),
    [
        ("docs/agents.md", "agents.md", "[a](../recipes/README.md#x)", "[a](recipes.md#x)"),
        ("docs/results/rl.md", "results/rl.md", "[a](../../SECURITY.md)", "[a](../security.md)"),
        ("recipes/README.md", "recipes.md", "[a](../docs/results/rl.md)", "[a](results/rl.md)"),
        ("CONTRIBUTING.md", "contributing.md", "[parts](tests/examples)", "parts (`tests/examples`)"),
        ("docs/agents.md", "agents.md", "[a](https://arxiv.org)", "[a](https://arxiv.org)"),
        ("docs/agents.md", "agents.md", "[a](missing.py)", "[a](missing.py)"),
        ("docs/agents.md", "agents.md", "```\n[a](../SECURITY.md)\n```", "```\n[a](../SECURITY.md)\n```"),
    ],
)
def test_links_are_rewritten(source: str, page: str, link: str, shown: str) -> None:
    assert LINKS.rewritten(link, source, page, ROOT) == shown


def test_no_page_needs_the_web() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert config["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css", "repo_url"} & config.keys()
    for path in PAGES:
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(img|script|iframe)", path.read_text(encoding="utf-8")), path


def test_notebooks_are_stored_without_outputs() -> None:
    for path in DOCS.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert len(cells) > 5
        assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in cells), path


def test_every_command_has_its_help_in_the_reference() -> None:
    assert "<!-- the help of every command -->" in (DOCS / "reference" / "commands.md").read_text()
    assert {"fit", "test", "predict", "search"} <= COMMAND_HELP.keys()


USES = ["supervised", "distillation", "agents", "unsupervised", "tables", "search"]
"""The pages of one use each."""

SHORT = [
    *("--trainer.max_steps=2", "--trainer.val_check_interval=2"),
    *("--trainer.accelerator=cpu", "--model.inner_loop.steps=4"),
    *("--model.evaluation.learners=1", "--model.evaluation.real_rates=[0.1]"),
]
"""What makes a run of a recipe short."""

SHORTER = {
    "cartpole": ["--data.init_args.episodes=1", "--data.init_args.eval_episodes=1"],
    "digits_distil": ["--trainer.max_steps=20", "--trainer.val_check_interval=20"],
    "digits_representation": ["--data.init_args.target.init_args.steps=3"],
}
"""What else does for some recipes. The teacher of digits_distil, which is replayed, learns something."""

LONG = {
    "max_steps=100, val_check_interval=50": "max_steps=2, val_check_interval=2",
    "steps=10": "steps=2",
    "=320": "=64",
}
"""What is made shorter in programs."""


def marked(page: str) -> list[tuple[str, str, str]]:
    """The marked blocks of a page in their order: how they are tested, language, text."""
    return [match.groups() for match in MARKED.finditer((DOCS / f"{page}.md").read_text(encoding="utf-8"))]


def test_the_readme_begins_as_the_start_page() -> None:
    ((_, _, block),) = MARKED.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    (start, *_) = (text for _, language, text in marked("start") if language == "bash")
    assert list(command_lines(block)) == list(command_lines(start))


@pytest.mark.parametrize("page", USES)
def test_a_page_of_a_use_has_a_picture_and_a_command_that_is_tested(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert re.search(r"!\[[^\]]+\]\((images|results)/\w+\.png\)", text)
    assert any("gtn fit" in block for _, _, block in marked(page))


def command_lines(block: str) -> Iterator[list[str]]:
    """The commands of a shell block, word by word, with what the shell would fill in."""
    for line in block.replace("\\\n", "").splitlines():
        words = shlex.split(line, comments=True)
        yield [found for word in words for found in (sorted(glob.glob(word)) if "*" in word else [word])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of all pages run: a command that two pages have runs once."""
    return tmp_path_factory.mktemp("pages")


def run(words: list[str]) -> None:
    """Run a command of a page, `gtn fit` for few meta-steps, unless it has run here."""
    if words[:2] == ["gtn", "fit"]:
        recipe = words[words.index("--config") + 1]
        if Path("runs", recipe).exists():
            return
        words = [*words, *SHORT, *SHORTER.get(recipe, [])]
    if words[0] == "gtn":
        assert main(words[1:]) == 0, shlex.join(words)
    else:
        subprocess.run(words, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["start", "choose", *USES])
def test_marked_blocks_do_what_they_say(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("sys.argv", ["gtn"])
    names: dict[str, object] = {}
    for how, language, block in marked(page):
        assert how in ("run", "parsed")
        if language == "python":
            for long, short in LONG.items():
                block = block.replace(long, short)
            exec(block, names)
        elif how == "run":
            for words in command_lines(block):
                run(words)
        else:
            for words in command_lines(block):
                with pytest.raises(SystemExit, match="0"):
                    main([*words[1:], "--print_config"])
    if page == "distillation":
        (accuracy,) = re.findall(r"among them: ([\d.]+)%", capsys.readouterr().out)
        assert float(accuracy) > 20  # guessing: 10
