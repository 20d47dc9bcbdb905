"""Private names of Lightning, jsonargparse and OmegaConf are there and do what they are used for.

If one of these fails after an update: is there a public way by now? See gtn_lightning/cli/upstream_privates.py.
"""

import importlib
import inspect
from typing import Any

import jsonargparse
import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf
from pytorch_lightning.cli import LightningCLI

from gtn_lightning import GTN
from gtn_lightning.callbacks import MetaProgressBar
from gtn_lightning.cli.app import GTNCLI
from gtn_lightning.cli.upstream_privates import (
    CHECKPOINT_CONNECTOR,
    OVERRIDDEN,
    ImportDenied,
    batches_done,
    child_processes,
    handle_signals_by,
    ignore_files,
    import_allowed,
    imports_limited_to,
    parameters_of,
    starts_workers,
    without_resolvers,
)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_methods_that_are_overridden_exist_and_take_the_same(name: str) -> None:
    assert name in vars(GTNCLI)
    upstream = inspect.signature(getattr(LightningCLI, name)).parameters
    assert list(inspect.signature(getattr(GTNCLI, name)).parameters) == list(upstream)


def test_parameters_that_a_class_passes_on_are_known() -> None:
    class Above:
        def __init__(self, width: int, depth: int = 3) -> None:
            pass

    class Below(Above):
        def __init__(self, name: str, **options: Any) -> None:
            super().__init__(**options)

    found = {each.name: (each.annotation, each.default) for each in parameters_of(Below)}
    empty = inspect.Parameter.empty
    assert found == {"name": (str, empty), "width": (int, empty), "depth": (int, 3)}
    assert {"teacher", "inner_loop"} <= {each.name for each in parameters_of(GTN)}
    assert parameters_of(MetaProgressBar) == []


def test_imports_are_denied_and_allowed_again() -> None:
    with imports_limited_to(["torch.optim.SGD", "torch.optim.sgd.SGD"]):
        assert import_allowed("torch.optim.SGD").__name__ == "SGD"
        for path in ("torch.optim.Adam", "torch.optim.os.system"):
            with pytest.raises(ImportDenied):
                import_allowed(path)
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--made", type=type)
        with pytest.raises(jsonargparse.ArgumentError, match="is not allowed"):
            parser.parse_args(["--made=torch.optim.Adam"])
    assert import_allowed("torch.optim.Adam").__name__ == "Adam"


def test_references_outside_the_recipe_lead_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTN_SECRET", "a secret")
    config = OmegaConf.create({"a": "${oc.env:GTN_SECRET}", "b": "${c}", "c": 3})
    with without_resolvers():
        assert config.b == 3
        with pytest.raises(Exception, match="Unsupported interpolation"):
            assert config.a
    assert config.a == "a secret"


def test_no_file_is_read_for_a_value() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(GTN, "module", required=False)
    enabled = [action for action in parser._actions if getattr(action, "_enable_path", False)]
    assert enabled
    ignore_files(parser)
    assert not any(getattr(action, "_enable_path", False) for action in enabled)


def test_how_a_trainer_starts_its_processes() -> None:
    def trainer(strategy: str) -> pl.Trainer:
        return pl.Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False)

    assert starts_workers(trainer("ddp_spawn"))
    ddp = trainer("ddp")
    assert not starts_workers(ddp)
    launcher = child_processes(ddp)
    assert launcher is not None
    assert launcher.procs == []
    assert child_processes(pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)) is None


def test_lightnings_signal_handlers_are_asked_about() -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    asked: list[int] = []
    handle_signals_by(trainer, lambda original, number, handler: asked.append(number))
    trainer._signal_connector.register_signal_handlers()
    assert asked


def test_what_is_known_of_a_trainer_before_it_runs() -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert batches_done(trainer) == 0
    assert type(trainer._checkpoint_connector).__module__ == CHECKPOINT_CONNECTOR
    assert importlib.import_module(CHECKPOINT_CONNECTOR)
