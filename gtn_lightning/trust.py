"""The classes that a teacher file, or a recipe under ``--trusted-only``, may name.

Names in files are resolved to classes only here. The classes in `KNOWN` are allowed: a name is looked up in that table
and never resolved through modules or attributes. Other classes are allowed

* if the caller passes or names them (``GTN.from_teacher(path, trust=[...])``, ``--trust``, `trusting`), or
* if this user wrote the file: `remember` records the recipe of a written file, and `own_classes` recognizes it.
"""

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

from gtn_lightning.errors import RecipeError
from gtn_lightning.files import whole_file

KNOWN: dict[str, tuple[str, ...]] = {
    "gtn_lightning.callbacks": (
        *("EpisodeAnimation", "GradientNorm", "LearningCurve", "MetaProgressBar", "NASProxy", "PolePicture"),
        *("Metasmoothness", "Reconstructions"),
        *("RunSummary", "SampleGrid", "SyntheticData", "TeacherCheckpoint"),
    ),
    "gtn_lightning.curricula": ("Full", "NoCurriculum", "ShuffledAll", "ShuffledBatches", "ShuffledPasses"),
    "gtn_lightning.data": ("DigitsData", "EnvironmentData", "ImageData", "RepresentationData", "TableData", "VICReg"),
    "gtn_lightning.fields": ("Field",),
    "gtn_lightning.inner_loop": ("SGD", "Adam", "AdamW", "RMSprop", "LARS"),
    "gtn_lightning.learners": (
        *("MLP", "Autoencoder", "ConvAutoencoder", "ConvNet", "Fixed", "GTNCifarNet", "GTNMnistNet", "Mixture"),
        *("RandomWidth", "ResNet"),
    ),
    "gtn_lightning.loggers": ("CSVLogger", "TensorBoardLogger", "WandbLogger"),
    "gtn_lightning.nas": (
        *("ConvNetGrid", "FullTraining", "MeasuredReference", "RankedLearners", "SpaceLearners", "TableReference"),
        *("AZNAS", "FLOPs", "GTNProxy", "MeanRank", "NASWOT", "NumParameters", "PredictedRank", "RealDataProxy"),
        "SynFlow",
    ),
    "gtn_lightning.nas.proxies": (
        *("AZNAS", "FLOPs", "GTNProxy", "MeanRank", "NASWOT", "NumParameters", "PredictedRank", "RealDataProxy"),
        "SynFlow",
    ),
    "gtn_lightning.nas.spaces": ("ConvNetGrid", "MicroSpace", "NASBench201"),
    "gtn_lightning.meta_training": ("EvolutionStrategies", "MetaGradient", "Recovery"),
    "gtn_lightning.tasks": (
        *("ActorCritic", "Autoencoding", "BehaviorDistillation", "Classification", "ContextualBandit"),
        *("Regression", "Representation"),
    ),
    "gtn_lightning.teachers": (
        *("Augmented", "FreeTensors", "Generator", "Pixels", "RealData", "SyntheticEnvironment"),
    ),
    "pytorch_lightning.callbacks": (
        *("DeviceStatsMonitor", "EarlyStopping", "EMAWeightAveraging", "GradientAccumulationScheduler"),
        *("LearningRateMonitor", "ModelCheckpoint", "ModelSummary", "RichModelSummary", "RichProgressBar"),
        *("StochasticWeightAveraging", "TQDMProgressBar", "Timer", "WeightAveraging"),
    ),
    "pytorch_lightning.loggers": ("CSVLogger",),
    "pytorch_lightning.strategies": ("DDPStrategy", "SingleDeviceStrategy"),
    "torch.optim": (
        *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop"),
        "SGD",
    ),
    "torch.optim.lr_scheduler": (
        *("ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LinearLR"),
        *("MultiStepLR", "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "StepLR"),
    ),
}
"""The classes that any file may name, by the module that exports them."""

Trusted = Sequence[str | type]
"""Classes, or names of classes and modules, that are allowed in addition to `KNOWN`."""

_TRUSTED: ContextVar[tuple[str | type, ...]] = ContextVar("trusted", default=())


@contextmanager
def trusting(*names: str | type) -> Iterator[None]:
    """Allow further classes within a block.

    Args:
        names: classes, dotted names of classes, or names of modules, which allow the classes that they define.

    Raises:
        RecipeError: if a name is not a dotted name.
    """
    for name in names:
        if isinstance(name, str) and not _is_dotted(name):
            raise RecipeError(
                f"--trust {name}: expected the name of a module or of a class, such as my_module.MyTeacher"
            )
    token = _TRUSTED.set((*_TRUSTED.get(), *names))
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def find(path: str, trust: Trusted = ()) -> type | None:
    """Return the class of a name, or None if it is not allowed. Only modules of allowed classes are imported.

    Args:
        path: the dotted name, in the module that defines the class or in one that exports it.
        trust: classes and names that are allowed in addition to `KNOWN`.

    Raises:
        ImportError: if the class is allowed but its module cannot be imported.
        AttributeError: if the class is allowed but its module has none of that name.
    """
    if (known := _known(path)) is not None:
        return known
    for allowed in (*_TRUSTED.get(), *trust):
        if inspect.isclass(allowed):
            if path == canonical(allowed):
                return allowed
        elif (path == allowed or path.startswith(f"{allowed}.")) and _is_dotted(path):
            found = resolve(path)
            # A module also has the names that it imports, which are code of other modules.
            if inspect.isclass(found) and _lies_in(canonical(found), str(allowed)):
                return found
    return None


def known_paths() -> list[str]:
    """Return all dotted names of the classes in `KNOWN`, in the modules that export and that define them."""
    paths = []
    for module, names in KNOWN.items():
        exporting = importlib.import_module(module)
        for name in names:
            paths += [f"{module}.{name}", canonical(getattr(exporting, name))]
    return list(dict.fromkeys(paths))


def canonical(cls: type) -> str:
    """Return the dotted name of a class in the module that defines it."""
    return f"{cls.__module__}.{cls.__qualname__}"


def resolve(path: str) -> Any:
    """Return the object of a dotted name, in a module or in a class of it; use `find` for names in untrusted files.

    It imports the module.

    Raises:
        ImportError: if there is no such module.
        AttributeError: if the module has no such name.
        ValueError: if the path is not a dotted name.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        outer = None
        with suppress(ImportError, AttributeError, ValueError):
            outer = resolve(module)
        if not inspect.isclass(outer):
            raise
        return getattr(outer, name)


def names_in(description: Any) -> Iterator[str]:
    """Yield the names of the classes in a description, see `describe`."""
    if isinstance(description, list):
        for item in description:
            yield from names_in(item)
    elif isinstance(description, dict):
        for key, value in description.items():
            if key in ("class_path", "$class") and isinstance(value, str):
                yield value
            else:
                yield from names_in(value)


def is_known(description: Any) -> bool:
    """Return whether a description names only classes of `KNOWN`."""
    return all(_known(path) is not None for path in names_in(description))


def check(description: Any, source: str, trust: Trusted = ()) -> None:
    """Check that all classes in a description are allowed and can be imported.

    Args:
        description: a teacher file's recipe, or a part of it.
        source: the file, for error messages.
        trust: classes and names that are allowed in addition to `KNOWN`.

    Raises:
        RecipeError: if one is not; the message says how to allow it.
    """
    for path in dict.fromkeys(names_in(description)):
        try:
            found = find(path, trust)
        except (ImportError, AttributeError, ValueError) as error:
            raise RecipeError(
                f"{source}: the class {path} cannot be imported ({error}): put its module on PYTHONPATH, or run in its "
                "folder"
            ) from error
        if found is None:
            raise refusal(source, path)


def refusal(source: str, path: str) -> RecipeError:
    """Return the error for a file that names a class that is not allowed."""
    module = path.rpartition(".")[0] or path
    if module.partition(".")[0] == "gtn_lightning":
        return RecipeError(f"{source} names {path}, which is not a component of this version of gtn-lightning")
    return RecipeError(
        f"{source} names {path}, which is not a class of gtn-lightning and could run any code: read that code, then "
        f"allow it with --trust {module}, in Python with trust=[{module!r}]"
    )


# ------------------------------------------------------------------------------------------------ the user's own files


def remember(recipe: str) -> None:
    """Record that this user wrote a file with a recipe, so that `own_classes` recognizes it. Failures are ignored.

    Args:
        recipe: the recipe as the JSON text of the file.
    """
    foreign = [path for path in dict.fromkeys(names_in(json.loads(recipe))) if _known(path) is None]
    if not foreign:
        return  # the file needs no further trust
    entry = _entry(recipe)
    with suppress(OSError, RecipeError):
        if entry.is_file():
            return
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.parent.chmod(0o700)
        origins = {path.partition(".")[0]: _origin(path.partition(".")[0]) for path in foreign}
        with whole_file(entry) as part:
            part.write_text(json.dumps({"classes": foreign, "origins": origins}), encoding="utf-8")
            part.chmod(0o600)  # whatever the umask: `own_classes` ignores files that a group can write to


def own_classes(recipe: str) -> list[str]:
    """Return the names of classes outside `KNOWN` in a file's recipe if this user wrote it, else an empty list.

    The modules must be in the same place as when the file was written.

    Args:
        recipe: the recipe as the JSON text of the file.
    """
    entry = _entry(recipe)
    try:
        for place in (entry.parent, entry):
            status = place.stat()
            if status.st_mode & 0o022 or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
                return []  # others could have written it
        content = json.loads(entry.read_text(encoding="utf-8"))
        same = all(_origin(module) == origin for module, origin in content["origins"].items())
        return [str(path) for path in content["classes"]] if same else []
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []


def _entry(recipe: str) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    digest = hashlib.sha256(recipe.encode("utf-8", "surrogatepass")).hexdigest()
    with suppress(RuntimeError):  # there is no home folder
        return Path(state).expanduser() / "gtn-lightning" / "own-recipes" / f"{digest}.json"
    return Path(os.devnull) / "none"


def _known(path: str) -> type | None:
    """Return the class of `KNOWN` with a dotted name, in the module that exports or that defines it."""
    name = path.rpartition(".")[2]
    for module, names in KNOWN.items():
        if name in names and path.startswith(f"{module}."):
            cls: type = getattr(importlib.import_module(module), name)
            if path in (f"{module}.{name}", canonical(cls)):
                return cls
    return None


def _origin(module: str) -> str | list[str]:
    """Return the file, or the folders, of a top-level module without importing it."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        return (
            os.path.realpath(file) if file else [os.path.realpath(place) for place in getattr(loaded, "__path__", [])]
        )
    spec = _spec(module)
    if spec is None:
        return ""
    if spec.origin and spec.has_location:
        return os.path.realpath(spec.origin)
    return [os.path.realpath(place) for place in spec.submodule_search_locations or []]


def _spec(module: str) -> Any:
    with suppress(ImportError, ValueError):
        if found := importlib.util.find_spec(module):
            return found
    # The working folder is not on the path, but may hold the user's own classes.
    return importlib.machinery.PathFinder.find_spec(module, [os.getcwd()])


class _TrustedModules(importlib.abc.MetaPathFinder):
    """Finds modules in a folder that is not on the path: trusted ones, and those that these import themselves.

    Imports by libraries are not found there, such as those of an optional package of the same name as a file.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.names: set[str] = set()
        """The top-level modules that may be found."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module, None if it may not be found here."""
        if path is not None or os.getcwd() != self.folder:
            return None
        if fullname not in self.names and not self._imported_by_trusted():
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, [self.folder])
        if found is not None:
            self.names.add(fullname)
        return found

    def _imported_by_trusted(self) -> bool:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            module = str(frame.f_globals.get("__name__")).partition(".")[0]
            if module != "importlib":
                return module in self.names
            frame = frame.f_back
        return False


def look_in_working_folder(names: Iterable[str]) -> None:
    """Make trusted modules of the working folder importable if they are not found elsewhere.

    Args:
        names: dotted names of classes and modules that the user trusts.
    """
    folder = os.getcwd()
    if folder in sys.path:
        return
    finder = next((each for each in sys.meta_path if isinstance(each, _TrustedModules)), None)
    if finder is not None and finder.folder != folder:
        sys.meta_path.remove(finder)
        finder = None
    for module in dict.fromkeys(name.partition(".")[0] for name in names):
        here = Path(folder, f"{module}.py").is_file() or Path(folder, module, "__init__.py").is_file()
        if here and module not in sys.modules and importlib.util.find_spec(module) is None:
            if finder is None:
                finder = _TrustedModules(folder)
                sys.meta_path.append(finder)
            finder.names.add(module)
            importlib.invalidate_caches()


def _is_dotted(path: str) -> bool:
    return all(part.isidentifier() for part in path.split("."))


def _lies_in(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")
