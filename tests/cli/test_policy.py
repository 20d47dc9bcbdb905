"""Recipes and teacher files from strangers: what they may name."""

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from gtn_lightning import GTN
from gtn_lightning.cli import main
from gtn_lightning.cli.policy import FILES
from gtn_lightning.cli.recipes import NO_FILE
from gtn_lightning.curricula import Curriculum
from gtn_lightning.errors import RecipeError
from gtn_lightning.inner_loop import InnerOptimizer
from gtn_lightning.learners import LearnerDistribution
from gtn_lightning.nas import Proxy, Reference, SearchSpace
from gtn_lightning.tasks import Task
from gtn_lightning.teachers import Teacher
from gtn_lightning.trust import KNOWN, known_paths, look_in_working_folder, resolve
from tests import processes
from tests.tiny import make_gtn, with_generator

TINY = [
    "--trainer.max_steps=1",
    "--model.evaluation.learners=1",
    "--model.inner_loop.steps=2",
    "--model.evaluation.real_rates=[0.1]",
]
SCORED = ["--model.evaluation.learners=1", "--model.evaluation.real_rates=[0.1]", "--trainer.enable_progress_bar=false"]
EVIL = "import pathlib\npathlib.Path({mark!r}).touch()\nfrom gtn_lightning.teachers import Pixels as Evil\n"


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a stranger's module; what is returned exists once it has been imported."""
    mark = tmp_path / "imported"
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("sys.argv", ["gtn"])
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("sys.meta_path", [*sys.meta_path])
    for name in ("evil_parts", "lightning", "mpi4py"):
        Path(f"{name}.py").write_text(EVIL.format(mark=str(mark)))
    yield mark
    sys.modules.pop("evil_parts", None)


Refused = Callable[..., str]


@pytest.fixture
def refused(mark: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused in one line before anything is imported or written; return the line."""

    def run(*arguments: str) -> str:
        before = set(Path().rglob("*"))
        capfd.readouterr()
        assert main(list(arguments)) == 2
        printed = capfd.readouterr()
        (line,) = (line for line in printed.err.splitlines() if line.startswith("gtn: "))
        assert "Traceback" not in printed.err
        assert not mark.exists(), "the stranger's module was imported"
        assert set(Path().rglob("*")) - before <= set(), "something was written"
        return line.removeprefix("gtn: error: ")

    return run


POPEN = '{class_path: subprocess.Popen, init_args: {args: "touch ran", shell: true}}'
THROUGH = "pytorch_lightning.strategies.launchers.subprocess_script.subprocess.Popen"
LEARNER = "model: {{learners: {{class_path: Fixed, init_args: {{learner: {}}}}}}}"

RECIPES = {
    "a class": "model: {teacher: evil_parts.Evil}",
    "with arguments": "model: {teacher: {class_path: evil_parts.Evil, init_args: {classes: 10}}}",
    "a callback": "trainer: {callbacks: [evil_parts.Evil]}",
    "a logger": "trainer: {logger: [{class_path: evil_parts.Evil}]}",
    "a plugin": "trainer: {plugins: [{class_path: evil_parts.Evil}]}",
    "a strategy": "trainer: {strategy: evil_parts.Evil}",
    "data": "data: {class_path: evil_parts.Evil}",
    "an optimizer": "model: {outer_optimizer: evil_parts.Evil}",
    "a function": "model: {outer_optimizer: {class_path: torch.hub.load}}",
    "a command": "model: {outer_optimizer: {class_path: os.system}}",
    "an alias": "x: &x evil_parts.Evil\nmodel: {teacher: *x}",
    "a tab": "model: {teacher: {class_path:\tevil_parts.Evil}}",
    "a quoted mapping": "model: {teacher: '{class_path: evil_parts.Evil}'}",
    "a long text": f"model: {{teacher: '{{class_path: evil_parts.Evil, init_args: {{a: {'0' * 300}}}}}'}}",
    "a list in a text": "trainer: {callbacks: '[evil_parts.Evil]'}",
    "a file": "model: {teacher: other.yaml}",
    "a file in another folder": "model: {teacher: ../other/other.yaml}",
    "a file of lines": "trainer: {callbacks: lines.txt}",
    "data in a file": "data: other.yaml",
    "an address": "model: {teacher: 'file://HERE/other.yaml'}",
    "a local protocol": "model: {teacher: 'local://HERE/other.yaml'}",
    "a name beside trusted ones": "model: {teacher: lightning.Evil}",
    "a set": "model: {teacher: !!set {evil_parts.Evil}}",
    "a tag": "model: {teacher: !!python/name:evil_parts.Evil }",
    "a module reached through a trusted one": LEARNER.format("gtn_lightning.description.kinds.nn.Linear"),
    "a process reached through trusted modules": LEARNER.format(f"{{class_path: {THROUGH}, init_args: {{args: x}}}}"),
    "a process as an argument": LEARNER.format(
        f"{{class_path: MLP, init_args: {{shape: [1, 8, 8], outputs: {POPEN}}}}}"
    ),
    "an attribute of a trusted class": "model: {teacher: gtn_lightning.teachers.Pixels.load_state_dict}",
    "an attribute in a file's name": (
        "trainer: {callbacks: [{class_path: TeacherCheckpoint, init_args: {filename: '{epoch].__class__[x}'}}]}"
    ),
    "weights that run code": "weights_only: false",
    "an environment variable": "trainer: {logger: false, default_root_dir: '${oc.env:HOME}'}",
    "a name put together": "model: {task: {class_path: 'evil${.x}.Evil', x: _parts}}",
    "a nested reference": "model: {teacher: '${oc.${.x}:HOME}'}",
    "unicode": "model: {teacher: évil_parts.Evil}",
    "an environment variable in a quoted mapping": (
        """data: '{class_path: ImageData, init_args: {path: "x/\\x24{oc.env:HOME}"}}'"""
    ),
    "an environment variable in a quoted list": """trainer: {callbacks: '["\\x24{oc.env:HOME}"]'}""",
    "a recipe in another file": "config: other.yaml",
    "several": "config: [other.yaml]",
    "a trainer in a file": "trainer: other.yaml",
    "a model in a file": "model: other.yaml",
    "what it extends elsewhere": "extends: ../other/other.yaml",
    "what it extends elsewhere, by a link": "extends: link/other.yaml",
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_that_names_other_code_is_refused_before_it_is_imported(kind: str, refused: Refused) -> None:
    Path("../other").mkdir()
    for folder in (".", "../other"):
        Path(folder, "other.yaml").write_text("class_path:\tevil_parts.Evil\n")
        Path(folder, "lines.txt").write_text("evil_parts.Evil\n")
    Path("link").symlink_to("../other")
    Path("évil_parts.py").write_text(Path("evil_parts.py").read_text())
    extends = "" if "extends" in RECIPES[kind] else "extends: digits\n"
    Path("r.yaml").write_text(extends + RECIPES[kind].replace("HERE", os.getcwd()), encoding="utf-8")
    line = refused("fit", "--config", "r.yaml", "--trusted-only", *TINY)
    assert os.environ["HOME"] not in line


@pytest.mark.parametrize("way", [["-cr.yaml"], ["-c", "r.yaml"], ["--config=r.yaml"], ["-c=r.yaml"]])
def test_so_it_is_however_the_recipe_is_given(way: list[str], refused: Refused) -> None:
    Path("r.yaml").write_text("extends: digits\nmodel: {teacher: evil_parts.Evil}")
    assert "evil_parts" in refused("fit", *way, "--trusted-only", *TINY)


@pytest.mark.parametrize("override", [["--model.teacher=evil_parts.Evil"], ["--model.teacher", "evil_parts.Evil"]])
def test_so_is_an_override(override: list[str], refused: Refused) -> None:
    line = refused("fit", "--config", "digits", "--trusted-only", *TINY, *override)
    assert "model.teacher: evil_parts.Evil is code from elsewhere" in line
    assert "--trust evil_parts" in line


CSV = "trainer: {logger: {class_path: pytorch_lightning.loggers.CSVLogger, init_args: %s}}"
STORAGES = ("sqlite:////tmp/x.db", "sqlite:///../x.db", "sqlite:///file:x.db?uri=true", "sqlite:///x.db?mode=rwc")
OUTSIDE = (
    "trainer: {default_root_dir: /tmp/elsewhere}",
    "trainer: {default_root_dir: ../elsewhere}",
    "trainer: {default_root_dir: '~/elsewhere'}",
    "trainer: {default_root_dir: 's3://bucket/x'}",
    "trainer: {default_root_dir: link/x}",
    "trainer: {callbacks: [{class_path: TeacherCheckpoint, init_args: {dirpath: /tmp/x}}]}",
    "trainer: {callbacks: [{class_path: TeacherCheckpoint, init_args: {filename: ../../../../x}}]}",
    "trainer: {callbacks: '[{class_path: TeacherCheckpoint, init_args: {dirpath: /tmp/x}}]'}",
    CSV % "{save_dir: /tmp/x}",
    CSV % "{save_dir: ., name: /tmp}",
    CSV % "{save_dir: s, name: x, version: v}",
    "trainer: {callbacks: [{class_path: TeacherCheckpoint, init_args: {dirpath: s/y}}]}",
    "ckpt_path: /tmp/last.ckpt",
)


@pytest.mark.parametrize("text", OUTSIDE)
def test_a_strangers_recipe_stays_in_the_working_folder(text: str, refused: Refused, tmp_path: Path) -> None:
    Path("link").symlink_to(tmp_path)
    Path("s/y/z").mkdir(parents=True)
    Path("s/x").symlink_to(tmp_path)
    Path("s/y/z/file").symlink_to(tmp_path / "file")
    Path("r.yaml").write_text("extends: digits\n" + text)
    assert "lies outside the working folder" in refused("fit", "--config", "r.yaml", "--trusted-only", *TINY)


@pytest.mark.parametrize("storage", STORAGES)
def test_so_does_a_strangers_search(storage: str, refused: Refused) -> None:
    Path("r.yaml").write_text(f"extends: search_mnist\nstorage: '{storage}'")
    assert "lies outside the working folder" in refused("search", "--config", "r.yaml", "--trusted-only")


def test_so_does_what_it_goes_on_from(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    Path("runs/digits/a").mkdir(parents=True)
    Path("runs/digits/a/checkpoints").symlink_to(tmp_path / "checkpoints")
    Path("r.yaml").write_text("extends: digits\nckpt_path: last")
    assert "lies outside the working folder" in refused("fit", "--config", "r.yaml", "--trusted-only", *TINY)


def test_no_module_of_the_working_folder_passes_for_one_of_pythons(mark: Path) -> None:
    processes.run(os.getpid, folder=mark.parent)  # what the command is forked from is started, unshielded
    for name in ("json", "ctypes", "subprocess"):
        Path(f"{name}.py").write_text(EVIL.format(mark=str(mark)))
    Path("r.yaml").write_text("extends: digits\ntrainer: {callbacks: [EMAWeightAveraging, TeacherCheckpoint]}")
    process = processes.start_gtn("fit", "--config", "r.yaml", "--trusted-only", *TINY, folder=Path.cwd())
    assert processes.finished(process) == (0 if sys.version_info >= (3, 11) else 2), processes.said(Path.cwd())
    assert not mark.exists()


def test_a_recipe_beside_it_may_be_extended(mark: Path) -> None:
    Path("base.yaml").write_text("extends: digits\ntrainer: {max_steps: 1}")
    Path("r.yaml").write_text("extends: base.yaml\nmodel: {inner_loop: {steps: 2}}")
    assert main(["fit", "--config", "r.yaml", "--trusted-only", *TINY]) == 0


def test_a_packaged_recipe_is_not_replaced_by_a_file_of_its_name(mark: Path) -> None:
    Path("digits").write_text("extends: digits\nmodel: {teacher: evil_parts.Evil}")
    assert main(["fit", "--config", "digits", *TINY]) == 0
    assert not mark.exists()
    assert main(["fit", "--config", "./digits", *TINY]) == 0
    assert mark.exists()


def test_a_strangers_recipe_does_not_upload_the_model(refused: Refused) -> None:
    Path("r.yaml").write_text("extends: digits\ntrainer: {model_registry: stranger/model}")
    assert "trainer.model_registry" in refused("fit", "--config", "r.yaml", "--trusted-only", *TINY)


def test_the_user_may_choose_any_folder(mark: Path, tmp_path: Path) -> None:
    folder = f"--trainer.default_root_dir={tmp_path / 'elsewhere'}"
    assert main(["fit", "--config", "digits", "--trusted-only", *TINY, folder]) == 0
    assert list(tmp_path.glob("elsewhere/*/recipe.yaml"))
    assert not mark.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        "init_args: {settings: {base_url: 'http://127.0.0.1:9'}}",
        "init_args: {entity: stranger}",
        "dict_kwargs: {settings: {base_url: 'http://127.0.0.1:9'}}",
        "init_args: {offline: true}",
    ],
)
def test_a_strangers_recipe_does_not_decide_where_ones_key_goes(arguments: str, refused: Refused) -> None:
    text = f"trainer: {{logger: [{{class_path: gtn_lightning.loggers.WandbLogger, {arguments}}}]}}"
    Path("r.yaml").write_text(f"extends: digits\n{text}")
    assert "trainer.logger.0" in refused("fit", "--config", "r.yaml", "--trusted-only", *TINY)
    Path("r.yaml").write_text(Path("r.yaml").read_text().replace("gtn_lightning", "pytorch_lightning"))
    assert "pytorch_lightning.loggers" in refused("fit", "--config", "r.yaml", "--trusted-only", *TINY)


@pytest.mark.parametrize("option", [[], ["--trusted-only"]])
def test_a_packaged_recipe_imports_nothing_from_the_working_folder(option: list[str], mark: Path) -> None:
    assert main(["fit", "--config", "digits", *option, *TINY]) == 0
    assert not mark.exists()
    assert os.getcwd() not in sys.path


NO_FILES = frozenset(
    [
        "activation",
        "columns",
        "config",
        "console_kwargs",
        "device",
        "duration",
        "env_id",
        "fields",
        "ignore",
        "init",
        "image_column",
        "interval",
        "key",
        "label_column",
        "learned",
        "learned_per_step",
        "learners",
        "measure",
        "mode",
        "monitor",
        "norm",
        "only",
        "order",
        "params",
        "pooling",
        "prefix",
        "process_group_backend",
        "plotted",
        "project",
        "ranges",
        "shaping",
        "spread",
        "target",
        "tune",
        "weights",
        "whiten",
        "without_families",
    ]
)
"""Arguments of the classes in `KNOWN` that take texts and name no file."""


def test_every_argument_that_may_name_a_file_is_known_as_one() -> None:
    texts = set()
    for path in known_paths():
        for name, parameter in inspect.signature(resolve(path)).parameters.items():
            if re.search(r"\bstr\b|Path", str(parameter.annotation)):
                texts.add(name)
    assert texts - FILES == NO_FILES


BASES = (Curriculum, InnerOptimizer, LearnerDistribution, Proxy, Reference, SearchSpace, Task, Teacher, pl.Callback)
BASES += (nn.Module, pl.LightningDataModule, pl.loggers.Logger)


def test_every_component_that_the_package_offers_may_be_named() -> None:
    for module, names in KNOWN.items():
        for name, cls in vars(importlib.import_module(module)).items():
            if inspect.isclass(cls) and cls.__module__.startswith("gtn_lightning") and not name.startswith("_"):
                is_component = issubclass(cls, BASES) and cls not in BASES and not inspect.isabstract(cls)
                assert name in names or not is_component, f"{module}.{name}"


@pytest.mark.parametrize("style", [b"text.usetex: True", b"\xff\xfe\x00"])
def test_a_style_in_the_working_folder_is_not_read(style: bytes, mark: Path) -> None:
    Path("matplotlibrc").write_bytes(style)
    program = (
        "from gtn_lightning.cli.working_folder import leave_out_folder_style; leave_out_folder_style();"
        "import matplotlib, os; print(matplotlib.rcParams['text.usetex'], os.getcwd())"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", os.getcwd()]


def test_a_file_that_is_called_like_a_recipes_text_is_not_read(mark: Path) -> None:
    Path("r.yaml").write_text("extends: digits")
    for name in ("{extends: digits}", '{"extends": "digits"}', " {extends: digits}"):
        Path(name).write_text("seed_everything: 55")
    assert main(["fit", "--config", "r.yaml", "--trusted-only", *TINY]) == 0
    (recipe,) = Path().glob("runs/*/*/recipe.yaml")
    assert "seed_everything: 0" in recipe.read_text()
    with pytest.raises(OSError, match="too long"):
        Path(f"{NO_FILE}{{extends: digits}}").touch()


def test_ones_own_recipe_names_classes_in_the_working_folder(mark: Path) -> None:
    Path("r.yaml").write_text("extends: digits\nmodel: {teacher: evil_parts.Evil}")
    assert main(["fit", "--config", "r.yaml", *TINY]) == 0
    assert mark.exists()


def test_a_module_may_be_allowed_by_name(mark: Path) -> None:
    Path("allowed_parts.py").write_text(
        "from gtn_lightning.tasks import Classification\nclass Mine(Classification): pass\n"
    )
    task = "--model.task={class_path: allowed_parts.Mine, init_args: {classes: 10}}"
    for trust in (["--trust", "allowed_parts"], ["--trust=allowed_parts.Mine"]):
        assert main(["fit", "--config", "digits", "--trusted-only", *trust, *TINY, task]) == 0
    assert main(["fit", "--config", "digits", "--trusted-only", "--trust", "evil_parts", *TINY, task]) == 2
    assert not mark.exists()


def test_beside_an_allowed_module_only_what_it_imports_itself_is_found(mark: Path) -> None:
    Path("ones_parts.py").write_text("import neighbour_parts\ndef late():\n    import later_parts\n")
    Path("neighbour_parts.py").touch()
    Path("later_parts.py").touch()
    look_in_working_folder(["ones_parts.Mine"])
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("evil_parts")
    importlib.import_module("ones_parts").late()
    assert {"neighbour_parts", "later_parts"} <= sys.modules.keys()
    assert not mark.exists()
    for name in ("ones_parts", "neighbour_parts", "later_parts"):
        del sys.modules[name]


@pytest.mark.parametrize("arguments", [["--trust"], ["--trust", "no name"], ["--trust=../x"]])
def test_what_no_module_can_be_called(arguments: list[str], refused: Refused) -> None:
    assert "--trust" in refused("fit", "--config", "digits", *TINY, *arguments)


# ----------------------------------------------------------------------------------------------------- teacher files


@pytest.fixture
def teacher(mark: Path) -> Path:
    data = {"class_path": "gtn_lightning.data.DigitsData", "init_args": {}}
    make_gtn(**with_generator()).save_teacher("teacher.safetensors", data)
    return Path("teacher.safetensors")


def changed(teacher: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write another recipe into a teacher file, as a stranger would."""
    with safe_open(teacher, "pt") as file:
        metadata = file.metadata()
    recipe = json.loads(metadata["recipe"])
    change(recipe)
    save_file(load_file(teacher), teacher, {**metadata, "recipe": json.dumps(recipe)})


POPEN_ARGUMENTS = {"class_path": "subprocess.Popen", "init_args": {"args": "touch ran", "shell": True}}
HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "a class": lambda r: r["model"].update(task={"class_path": "evil_parts.Evil", "init_args": {}}),
    "a class as a text": lambda r: r["model"].update(task="evil_parts.Evil"),
    "a class in a text": lambda r: r["model"].update(task="{class_path: evil_parts.Evil}"),
    "a file": lambda r: r["model"].update(task="other.yaml"),
    "a process": lambda r: r["model"]["teacher"]["init_args"].update(noise=POPEN_ARGUMENTS),
    "a process in a network": lambda r: r["model"]["learners"]["init_args"].update(
        learner={"class_path": "torch.nn.Linear", "init_args": {"device": POPEN_ARGUMENTS}}
    ),
    "a class of a network": lambda r: r["model"]["teacher"]["init_args"].update(noise={"$class": "evil_parts.Evil"}),
    "a partial": lambda r: r["model"].update(task={"$partial": {"class_path": "evil_parts.Evil", "init_args": {}}}),
    "data": lambda r: r.update(data={"class_path": "evil_parts.Evil", "init_args": {}}),
    "data as a text": lambda r: r.update(data={"x": "evil_parts.Evil"}),
    "through a trusted module": lambda r: r["model"].update(
        task={"class_path": "gtn_lightning.description.kinds.nn.Linear", "init_args": {}}
    ),
    "a reference": lambda r: r["model"].update(seed="${oc.env:HOME}"),
}


@pytest.mark.parametrize("command", [["test", *SCORED], ["predict"], ["validate", "--trusted-only", *SCORED]])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_teacher_file_runs_nothing(kind: str, command: list[str], teacher: Path, refused: Refused) -> None:
    Path("other.yaml").write_text("class_path: evil_parts.Evil")
    changed(teacher, HOSTILE[kind])
    refused(*command[:1], "--teacher", str(teacher), *command[1:])
    if kind not in ("data as a text", "a reference"):
        with pytest.raises(RecipeError) as caught:
            GTN.from_teacher(teacher)
        assert "\n" not in str(caught.value)
    assert not Path("ran").exists()


def test_the_line_says_how_to_allow_a_class(teacher: Path, refused: Refused) -> None:
    changed(teacher, HOSTILE["a class"])
    line = refused("predict", "--teacher", str(teacher))
    assert line.startswith("teacher.safetensors names evil_parts.Evil, which is not a class of gtn-lightning")
    assert "allow it with --trust evil_parts, in Python with trust=['evil_parts']" in line


MINE = "from gtn_lightning.tasks import Classification\nclass Mine(Classification): pass\n"


def test_a_class_may_be_allowed_for_a_teacher_file(teacher: Path) -> None:
    Path("his_parts.py").write_text(MINE)
    changed(teacher, lambda r: r["model"]["task"].update(class_path="his_parts.Mine"))
    with pytest.raises(RecipeError, match="--trust his_parts"):
        GTN.from_teacher(teacher)
    assert type(GTN.from_teacher(teacher, trust=["his_parts"]).task).__name__ == "Mine"
    assert main(["predict", "--teacher", str(teacher), "--trust", "his_parts"]) == 0


def test_ones_own_teacher_file_needs_no_permission(mark: Path) -> None:
    Path("her_parts.py").write_text(MINE)
    recipe = "extends: digits\nmodel: {task: {class_path: her_parts.Mine, init_args: {classes: 10}}}"
    Path("r.yaml").write_text(recipe)
    assert main(["fit", "--config", "r.yaml", *TINY, "--trainer.val_check_interval=1"]) == 0
    (teacher,) = Path().glob("runs/digits/*/teacher.safetensors")
    assert main(["predict", "--teacher", str(teacher)]) == 0
    assert type(GTN.from_teacher(teacher).task).__name__ == "Mine"
    # In another user's eyes it is a stranger's, and so is one that was changed.
    changed(teacher, lambda r: r["model"].update(seed=1))
    assert main(["predict", "--teacher", str(teacher)]) == 2


def test_so_it_is_where_a_group_may_write_to_new_files(mark: Path) -> None:
    before = os.umask(0o002)
    try:
        test_ones_own_teacher_file_needs_no_permission(mark)
    finally:
        os.umask(before)


def test_one_of_ones_own_is_not_taken_with_another_module_of_the_same_name(
    mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("our_parts.py").write_text(MINE)
    Path("r.yaml").write_text("extends: digits\nmodel: {task: {class_path: our_parts.Mine, init_args: {classes: 10}}}")
    assert main(["fit", "--config", "r.yaml", *TINY, "--trainer.val_check_interval=1"]) == 0
    (teacher,) = Path().glob("runs/digits/*/teacher.safetensors")
    teacher = teacher.absolute()
    (tmp_path / "hostile").mkdir()
    monkeypatch.chdir(tmp_path / "hostile")
    monkeypatch.setattr("sys.path", [path for path in sys.path if path != str(tmp_path / "work")])
    sys.modules.pop("our_parts")
    Path("our_parts.py").write_text(EVIL.format(mark=str(mark)))
    assert main(["predict", "--teacher", str(teacher)]) == 2
    assert not mark.exists()


DAMAGED = {
    "no recipe": None,
    "no JSON": "{nope",
    "a list": "[]",
    "null": "null",
    "no model": "{}",
    "a model that is none": '{"model": []}',
    "data that is none": '{"model": {}, "data": 3}',
    "deep": "[" * 100_000 + "]" * 100_000,
    "rather deep": '{"model": ' + "[" * 200 + "]" * 200 + "}",
    "an empty model": '{"model": {}}',
    "a text that is none": '{"model": {"teacher": "\\udcff\\u0000"}}',
    "a large number": '{"model": {"seed": ' + "9" * 5000 + "}}",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_teacher_file_is_one_line(kind: str, teacher: Path, refused: Refused) -> None:
    with safe_open(teacher, "pt") as file:
        metadata = file.metadata()
    text = DAMAGED[kind]
    metadata.pop("recipe") if text is None else metadata.update(recipe=text)
    save_file(load_file(teacher), teacher, metadata)
    line = refused("test", "--teacher", str(teacher), *SCORED)
    assert "teacher.safetensors" in line or "model." in line
    with pytest.raises(RecipeError):
        GTN.from_teacher(teacher)


@pytest.mark.parametrize("size", [10**6, 10**9, 10**30])
def test_a_teacher_file_takes_no_more_memory_than_it_holds(size: int, teacher: Path, refused: Refused) -> None:
    changed(teacher, lambda r: r["model"]["teacher"]["init_args"].update(image_shape=[1, size, size]))
    refused("test", "--teacher", str(teacher), *SCORED)
    with pytest.raises(RecipeError):
        GTN.from_teacher(teacher)
