"""Proxies that train a fresh network for a few steps: on a teacher's synthetic data, or on real data."""

import hashlib
import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from gtn_lightning.curricula import ShuffledPasses
from gtn_lightning.description import describe
from gtn_lightning.errors import RecipeError
from gtn_lightning.evaluation import REAL_SAMPLES
from gtn_lightning.inner_loop import Adam, InnerOptimizer
from gtn_lightning.learners import Fixed
from gtn_lightning.lightning import rank_zero_warn
from gtn_lightning.module import GTN
from gtn_lightning.nas.proxies.base import Cost
from gtn_lightning.nas.proxies.training import Plan, TaughtProxy, TaughtScorer
from gtn_lightning.randomness import keyed_generator
from gtn_lightning.tasks import Classification
from gtn_lightning.teacher_file import check_sizes, read_meta_training, read_recipe, read_shapes
from gtn_lightning.teachers import RealData


class GTNScorer(TaughtScorer):
    """Trains networks on synthetic data."""

    proxy: "LiveGTNProxy"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gtn = self.proxy.gtn

    def plan(self, generator: torch.Generator) -> Plan:
        """Return the meta-learned curriculum; see the base class."""
        with torch.no_grad():
            requests = self.gtn.curriculum.requests(generator, self.device)
        return Plan(self.gtn.task, self.gtn.teacher, requests[: self.proxy.steps], self.gtn.inner_optimizer)


class LiveGTNProxy(TaughtProxy):
    """The synthetic data of a GTN in memory, for instance during its meta-training.

    Args:
        gtn: the module.
        steps: number of inner steps; None for as many as it is meta-trained with.
        options: the other arguments of `TaughtProxy`; by default with the learned rates.

    Raises:
        RecipeError: a value is out of range.
    """

    name = "GTN"
    scorer: type[TaughtScorer] = GTNScorer

    def __init__(self, gtn: GTN, steps: int | None = None, **options: Any) -> None:
        most = gtn.inner_loop.steps
        super().__init__(most if steps is None else steps, **options)
        if self.steps > most:
            raise RecipeError(
                f"{type(self).__name__}: steps must be at most {most}, as many as the teacher is meta-trained for, got "
                f"{steps}"
            )
        self.gtn = gtn


class GTNFileScorer(GTNScorer):
    """Trains networks on the synthetic data of a finished GTN, whose meta-training is part of the cost."""

    proxy: "GTNProxy"

    def __post_init__(self) -> None:
        super().__post_init__()
        proxy = self.proxy
        made = proxy.gtn.teacher.fields["inputs"].sample_shape
        if made != tuple(self.data.image_shape):
            raise RecipeError(
                f"GTNProxy: {proxy.file} makes images of shape {list(made)}, but the data's "
                f"have {list(self.data.image_shape)}: give it the data that it was meta-trained with"
            )
        families = proxy.gtn.learners.families()
        if not proxy.untrained and len(families) == 1 and isinstance(next(iter(families.values())), Fixed):
            rank_zero_warn(
                f"{proxy.file} was meta-trained on one architecture alone ({', '.join(families)}), and may rank others "
                "badly: meta-train on the space, with SpaceLearners, as nas_digits does"
            )
        self.gtn = deepcopy(proxy.gtn)
        real = self.data.some("train", REAL_SAMPLES, self.gtn.seed)
        with torch.no_grad():  # some teachers begin as real images
            self.gtn.teacher.attach(dict(zip(self.gtn.task.fields, real, strict=True)))
        self.gtn.to(self.device)

    def settings(self) -> Any:
        """Return what the scores depend on; see the base class. The teacher counts by its contents, not its path."""
        parts = (self.gtn.task, self.gtn.teacher, self.gtn.curriculum, self.gtn.inner_optimizer)
        digest = hashlib.sha256(json.dumps([describe(part, rebuilt=False) for part in parts]).encode())
        for name, tensor in self.gtn.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().numpy().tobytes())
        described = super().settings()
        described["init_args"]["teacher"] = digest.hexdigest()[:16]
        return described

    def overhead(self) -> Cost:
        """Return the cost of meta-training, if the teacher is trained, and of choosing rates; see the base class."""
        tuning = super().overhead()
        if self.proxy.untrained:
            return tuning
        spent = read_meta_training(self.proxy.file)
        if spent is None:
            rank_zero_warn(
                f"{self.proxy.file} does not say what its meta-training cost: an older version wrote it; it counts as 0"
            )
            return tuning
        learners = int(spent["meta_steps"] * spent["processes"])
        steps = learners * self.gtn.inner_loop.steps
        return tuning + Cost(spent["seconds"] * spent["processes"], steps, steps * self.gtn.curriculum.batch_size)


class GTNProxy(LiveGTNProxy):
    """The synthetic data of a finished GTN.

    Args:
        teacher: its teacher file, or a folder of runs, of which the newest that wrote a teacher file counts.
        steps: number of inner steps; None for as many as it was meta-trained with.
        untrained: use the same teacher as it was before meta-training, for comparison.
        measure, rates, learners, images, tune: see `TaughtProxy`; by default with the learned rates.

    Raises:
        RecipeError: there is no teacher file, or a value is out of range.
    """

    scorer = GTNFileScorer

    def __init__(
        self,
        teacher: str,
        steps: int | None = None,
        untrained: bool = False,
        measure: str = "accuracy",
        rates: Sequence[float] | None = None,
        learners: int = 1,
        images: int = 2000,
        tune: str = "architecture",
    ) -> None:
        file = teacher_file(teacher)
        if untrained:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                recipe = read_recipe(file)
                check_sizes(recipe.model, read_shapes(file), str(file), recipe.trust)
                gtn = GTN.from_description(recipe.model, recipe.trust)
        else:
            gtn = GTN.from_teacher(file)
        super().__init__(gtn, steps, measure=measure, rates=rates, learners=learners, images=images, tune=tune)
        self.teacher = teacher
        self.file = file
        self.untrained = untrained
        if untrained:
            self.name = "untrained teacher"


def teacher_file(path: str) -> Path:
    """Return a teacher file, or the newest one of a folder of runs, such as ``runs/nas_digits``.

    Raises:
        RecipeError: no run in the folder wrote one.
    """
    given = Path(path)
    if not given.is_dir() and (given.suffix or given.is_file()):  # a missing file is refused when it is read
        return given
    found = sorted(given.glob("*/teacher.safetensors"), key=lambda file: file.stat().st_mtime)
    if not found:
        made = f"run `gtn fit --config {given.name}` first" if given.parent.name == "runs" else "meta-train one first"
        raise RecipeError(
            f"there is no teacher file in the runs of {path}: {made}, or set teacher to a teacher.safetensors"
        )
    return found[-1]


class RealDataScorer(TaughtScorer):
    """Trains networks on real images."""

    proxy: "RealDataProxy"

    def __post_init__(self) -> None:
        super().__post_init__()
        subset = self.proxy.subset
        images, labels = self.data.splits.train
        if subset is not None and subset > len(labels):
            raise RecipeError(
                f"RealDataProxy: subset must be at most {len(labels)}, the number of training images, got {subset}"
            )
        if subset is not None:
            rows = torch.randperm(len(labels), generator=keyed_generator(0, "subset"))[:subset]
            images, labels = images[rows], labels[rows]
        self._real = RealData()
        self._real.attach({"inputs": self.data.normalize(images).to(self.device), "targets": labels.to(self.device)})
        self._optimizer = deepcopy(self.proxy.optimizer).to(self.device)

    def plan(self, generator: torch.Generator) -> Plan:
        """Return shuffled passes over the images; see the base class."""
        classes = self.data.classes
        passes = ShuffledPasses(self.proxy.steps, self.proxy.batch_size, classes, self._real.size)
        return Plan(Classification(classes), self._real, passes.requests(generator, self.device), self._optimizer)


class RealDataProxy(TaughtProxy):
    """Real training images, in the order of ordinary training.

    Args:
        steps: number of steps.
        batch_size: images in each.
        subset: number of images, drawn at random once, to train on; None for all of the training split.
        optimizer: the optimizer; None for Adam with rate 0.01.
        measure, rates, learners, images, tune: see `TaughtProxy`.

    Raises:
        RecipeError: a value is out of range.

    Examples:
        >>> from gtn_lightning.data import DigitsData
        >>> from gtn_lightning.inner_loop import SGD
        >>> from gtn_lightning.nas import ConvNetGrid, RealDataProxy
        >>> data = DigitsData()
        >>> data.setup()
        >>> space = ConvNetGrid(image_shape=(1, 8, 8), classes=10, depths=[1, 2])
        >>> scorer = RealDataProxy(steps=2, optimizer=SGD(lr=0.1)).bind(space, data)
        >>> 0 <= scorer("w4-d1-relu-batch-max") <= 1
        True
    """

    scorer = RealDataScorer

    def __init__(
        self,
        steps: int,
        batch_size: int = 64,
        subset: int | None = None,
        optimizer: InnerOptimizer | None = None,
        measure: str = "accuracy",
        rates: Sequence[float] | None = None,
        learners: int = 1,
        images: int = 2000,
        tune: str = "architecture",
    ) -> None:
        super().__init__(steps, measure, rates, learners, images, tune)
        if subset is not None and subset < 1:
            raise RecipeError(f"RealDataProxy: subset must be at least 1, or null for all images, got {subset}")
        self.batch_size = batch_size
        self.subset = subset
        self.optimizer = optimizer or Adam(lr=0.01)
        self.name = "real data" if subset is None else f"{subset} real images"
