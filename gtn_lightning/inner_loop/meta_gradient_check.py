"""A check of the meta-gradient of one's own loss, learner and data, by central differences."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gtn_lightning.inner_loop.autograd_graph import inspect_graph
from gtn_lightning.inner_loop.central_differences import distance, dot, double, random_direction, typical_slope
from gtn_lightning.inner_loop.errors import InnerLoopError, WrongDerivativeError, WrongMetaGradientError
from gtn_lightning.inner_loop.functional import Functional
from gtn_lightning.inner_loop.gradients import inner_gradient
from gtn_lightning.inner_loop.optimizers import InnerOptimizer
from gtn_lightning.inner_loop.replay import ReplayContext
from gtn_lightning.inner_loop.stopped_gradients import STOP, InnerPass, LossObserver
from gtn_lightning.inner_loop.torch_internals import version
from gtn_lightning.inner_loop.traits import traits_of
from gtn_lightning.inner_loop.types import Batch, Buffers, LossFn, Params
from gtn_lightning.inner_loop.unroll import Unrolled, unroll
from gtn_lightning.inner_loop.verification import InDouble, check_derivative

STEPS = (1e-5, 1e-6, 1e-7, 1e-4, 1e-8)
"""Relative steps of the central differences, of which one has to agree."""

TOLERANCE = 1e-5
"""Largest relative distance from central differences."""

REPEATS = 1e-10
"""Relative difference above which two evaluations count as different; sums on a GPU differ by less."""

BESIDE = 1e-3
"""Relative distance of a point that is not on a kink by design, as zero biases are."""

MetaLoss = Callable[[Unrolled], Tensor]
"""``meta_loss(result of unroll) -> scalar``."""

Point = dict[str, Tensor]
"""What the meta-gradient is taken of; each name begins with its group, one of `GROUPS`."""

GROUPS = ("initial parameters", "batches", "hyperparameters")


@dataclass(frozen=True)
class MetaGradientCheck:
    """The result of `check_meta_gradient`."""

    passed: bool
    """Whether the meta-gradient agrees with central differences."""
    errors: tuple[float, ...]
    """Relative error along each direction."""
    causes: tuple[str, ...] = ()
    """If it does not: what experiments say about why."""


def check_meta_gradient(
    loss_fn: LossFn,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batches: Sequence[Batch],
    optimizer: InnerOptimizer,
    meta_loss: MetaLoss,
    *,
    mode: str = "remat",
    checked: bool = True,
    directions: int = 3,
    seed: int = 0,
    raise_exception: bool = True,
) -> MetaGradientCheck:
    """Compare a meta-gradient with central differences along random directions, in double precision.

    The meta-gradient is that with respect to the initial parameters, the tensors of the batches that require grad, and
    the parameters of the optimizer. Everything is converted to float64; the arguments are left as they are. Random
    numbers are the same in all evaluations. If the check fails, experiments find out why: whether two equal
    evaluations differ, whether the differences from the two sides agree, and whether the meta-loss, the buffers or the
    inner loss lack a dependence.

    It costs a meta-gradient and some ten trainings; a check that fails, some ten times as much.

    Args:
        loss_fn: pure function ``(params, buffers, *batch) -> (scalar loss, buffers)``, as for `unroll`.
        params: the learner's initial parameters.
        buffers: the learner's initial buffers.
        batches: one batch per inner step, each a tuple of tensors.
        optimizer: the inner optimizer.
        meta_loss: function of the result of `unroll`, a scalar.
        mode: how the inner gradient is differentiated, as for `unroll`.
        checked: as for `unroll`. With False this check still tells of a loss that `unroll` would refuse.
        directions: number of random directions.
        seed: seed of the directions.
        raise_exception: whether to raise if the check fails.

    Raises:
        ValueError: if there is no direction or no batch.
        WrongMetaGradientError: if the check fails; its attribute ``check`` is the result.
        InnerLoopError: if `unroll` refuses the loss.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from torch.nn import functional as F
        >>> from gtn_lightning.inner_loop import SGD, Functional, check_meta_gradient
        >>> _ = torch.manual_seed(0)
        >>> network = Functional(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
        >>> def loss_fn(params, buffers, inputs, targets):
        ...     logits, buffers = network(params, buffers, inputs)
        ...     return F.cross_entropy(logits, targets), buffers
        >>> inputs, targets = torch.randn(32, 4), torch.arange(32) % 3
        >>> batches = [(inputs.requires_grad_(), targets)] * 5
        >>> optimizer = SGD(lr=0.1, momentum=0.5, learned=["lr", "momentum"])
        >>> def meta_loss(trained):
        ...     return loss_fn(trained.params, trained.buffers, inputs.detach() + 0.1, targets)[0]
        >>> check_meta_gradient(loss_fn, *network.init(), batches, optimizer, meta_loss).passed
        True
    """
    if directions < 1:
        raise ValueError(f"directions must be at least 1, got {directions}")
    training = _Training(loss_fn, params, buffers, batches, optimizer, meta_loss, mode, checked)
    if not training.batches:
        raise ValueError("batches: expected one per inner step, got none")
    check = _checked(training, directions, torch.Generator().manual_seed(seed))
    if raise_exception and not check.passed:
        causes = "; ".join(check.causes)
        if any(map(math.isnan, check.errors)):
            raise WrongMetaGradientError(f"the meta-gradient cannot be checked: {causes}", check)
        raise WrongMetaGradientError(
            f"the meta-gradient differs from central differences by {max(check.errors):.2g}, relatively, where at most "
            f"{TOLERANCE:g} is expected: {causes}",
            check,
        )
    return check


class _Training:
    """The training of a learner in double precision, as a function of a `Point`."""

    def __init__(
        self,
        loss_fn: LossFn,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batches: Sequence[Batch],
        optimizer: InnerOptimizer,
        meta_loss: MetaLoss,
        mode: str,
        checked: bool,
    ) -> None:
        def loss_in_double(params: Params, buffers: Buffers, *batch: Tensor) -> tuple[Tensor, Buffers]:
            with InDouble():
                return loss_fn(params, buffers, *batch)

        def meta_loss_in_double(trained: Unrolled) -> Tensor:
            with InDouble():
                return meta_loss(trained)

        self.own = loss_fn, meta_loss
        self.loss_fn, self.meta_loss = loss_in_double, meta_loss_in_double
        self.params = {name: double(tensor.detach()) for name, tensor in params.items()}
        self.buffers = {name: double(tensor.detach()) for name, tensor in buffers.items()}
        self.batches = [[double(tensor.detach()) for tensor in batch] for batch in batches]
        self.optimizer = copy.deepcopy(optimizer).double()
        self.mode, self.checked = mode, checked
        wanted = {
            f"batches {step}.{place}": self.batches[step][place]
            for step, batch in enumerate(batches)
            for place, tensor in enumerate(batch)
            if tensor.requires_grad
        }
        learned = {f"hyperparameters {n}": p for n, p in self.optimizer.named_parameters() if p.requires_grad}
        initial = {f"initial parameters {name}": tensor for name, tensor in self.params.items()}
        self.start: Point = {name: t.detach().clone() for name, t in (initial | wanted | learned).items()}
        self._learned = learned
        self._context = ReplayContext(next(iter(self.params.values())).device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Run the block with the random numbers of the first one."""
        with self._context.restored(), self._context.recording():
            yield

    def train(self, point: Point) -> Unrolled:
        """Train at a point; differentiable w.r.t. its tensors, except the hyperparameters, if gradients are enabled."""
        params = {name: point[f"initial parameters {name}"] for name in self.params}
        batches = [
            [point.get(f"batches {step}.{place}", tensor) for place, tensor in enumerate(batch)]
            for step, batch in enumerate(self.batches)
        ]
        with torch.no_grad():
            for name, parameter in self._learned.items():
                parameter.copy_(point[name])
        return unroll(self.loss_fn, params, self.buffers, batches, self.optimizer, mode=self.mode, checked=self.checked)

    def value(self, point: Point, buffers: Buffers | None = None) -> float:
        """Return the meta-loss at a point, on other buffers than the trained ones if these are given."""
        with torch.no_grad(), self.replayed():
            trained = self.train(point)
            return float(self.meta_loss(trained if buffers is None else trained._replace(buffers=buffers)))

    def gradient(self, point: Point) -> Point:
        """Return the meta-gradient at a point."""
        leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in point.items()}
        variables = [self._learned.get(name, leaf) for name, leaf in leaves.items()]
        with torch.enable_grad(), self.replayed():
            loss = self.meta_loss(self.train(leaves))
            if not loss.requires_grad:
                raise InnerLoopError(
                    "the meta-loss does not depend on the trained parameters through differentiable operations: it "
                    "must be computed from params of the result of unroll, without detach(), item() or no_grad()"
                )
            found = torch.autograd.grad(loss, variables, allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
        }


@dataclass(frozen=True)
class _Line:
    """The meta-loss along a random direction through a point."""

    training: _Training
    point: Point
    along: Point
    gradient: Point
    buffers: Buffers | None = None

    def value(self, shift: float) -> float:
        point = {name: t + shift * self.along[name] if name in self.along else t for name, t in self.point.items()}
        return self.training.value(point, self.buffers)

    @property
    def slope(self) -> float:
        return sum(float(dot(self.gradient[name], along)) for name, along in self.along.items())

    @property
    def typical(self) -> float:
        return typical_slope([(self.gradient[name], along) for name, along in self.along.items()])

    def error(self) -> float:
        return distance(self.value, self.slope, self.typical, STEPS, TOLERANCE)


def _is_right(error: float) -> bool:
    return error <= TOLERANCE  # NaN is not


def _checked(training: _Training, directions: int, generator: torch.Generator) -> MetaGradientCheck:
    first, second = training.value(training.start), training.value(training.start)
    if not math.isfinite(first):
        return MetaGradientCheck(
            False, (math.nan,), (f"the meta-loss is {first}: the training diverges or divides by zero",)
        )
    if _differ(first, second):
        return MetaGradientCheck(False, (math.nan,), tuple(_causes_of_difference(training, first, second)))
    lines = _lines(training, training.start, directions, generator)
    errors = tuple(line.error() for line in lines)
    if all(map(_is_right, errors)):
        return MetaGradientCheck(True, errors)
    worst = lines[max(range(directions), key=lambda place: (math.isnan(errors[place]), errors[place]))]
    return MetaGradientCheck(False, errors, tuple(_causes(worst, generator)))


def _lines(training: _Training, point: Point, directions: int, generator: torch.Generator) -> list[_Line]:
    gradient = training.gradient(point)
    drawn = [{name: random_direction(t, generator) for name, t in point.items()} for _ in range(directions)]
    return [_Line(training, point, along, gradient) for along in drawn]


def _differ(one: float, other: float) -> bool:
    return not abs(one - other) <= REPEATS * max(abs(one), abs(other))


# -------------------------------------------------------------------------------------------------------- experiments


def _causes_of_difference(training: _Training, first: float, second: float) -> Iterator[str]:
    """Find out what makes two equal evaluations differ."""
    before, trained = _state(training.own), []
    with torch.no_grad():
        for _ in range(2):
            with training.replayed():
                trained.append(training.train(training.start))
    state = [name for name, value in _state(training.own).items() if before.get(name, value) != value]
    where = "meta-loss" if torch.equal(trained[0].losses, trained[1].losses) else "inner loss"
    said = f"two equal evaluations of the meta-loss gave {first:.8g} and {second:.8g}, because of the {where}"
    if state:
        yield f"{said}: it changes its own state, {', '.join(sorted(state)[:3])}; return it as a buffer instead"
    else:
        yield (
            f"{said}: it draws from a random generator that is not an attribute of a layer, or keeps a state outside "
            "of its buffers; draw random numbers outside of the loss and pass them in the batch"
        )


def _causes(line: _Line, generator: torch.Generator) -> Iterator[str]:
    """Find out why the meta-gradient differs from central differences along a line."""
    if math.isnan(line.error()):
        yield "the meta-loss is not finite beside the point: the training diverges"
        return
    if fault := _non_smooth(line):
        beside = {n: t + BESIDE * random_direction(t, generator) for n, t in line.point.items()}
        (other,) = _lines(line.training, beside, 1, generator)
        right = _is_right(other.error())
        yield fault + (f"; at a point {BESIDE:g} beside it, relatively, the meta-gradient is right" if right else "")
        if right:
            return
    found = [*_missing_dependences(line)]
    if found or not fault:
        groups = {}
        for group in GROUPS:
            along = {name: t for name, t in line.along.items() if name.startswith(group)}
            if along:
                part = _Line(line.training, line.point, along, line.gradient)
                groups[group] = part.error()
        wrong = [f"{group} ({error:.2g})" for group, error in groups.items() if not _is_right(error)]
        said = f"; wrong with respect to: {', '.join(wrong)}" if wrong else ""
        yield f"the meta-loss is smooth, so a dependence is missing{said}"
    yield from found
    if not found and not fault:
        yield (
            "the derivatives of the meta-loss and of the inner gradient are right by themselves: look into the inner "
            "optimizer, for detach(), no_grad() or writes in place in its update"
        )


def _non_smooth(line: _Line) -> str | None:
    """Return what differences from two sides say, None if the meta-loss is smooth at the point."""
    center, steps = line.value(0.0), (1e-5, 1e-6)
    left = [(center - line.value(-step)) / step for step in steps]
    right = [(line.value(step) - center) / step for step in steps]
    scale = max(abs(line.slope), line.typical, min(map(abs, left + right)))
    if scale == 0:
        return None
    # Of a smooth function the gap is proportional to the step; of a kink it is constant; of a jump it grows.
    wide, narrow = ((one - other) / scale for one, other in zip(right, left, strict=True))
    if abs(narrow) < 100 * TOLERANCE or abs(narrow) < 0.5 * abs(wide):
        return None
    what = "jumps" if abs(narrow) > 5 * abs(wide) or max(map(abs, left + right)) > 1e3 * scale else "has a kink"
    return (
        f"the meta-loss {what} at this point (differences from the left and from the right are {left[1]:.4g} and "
        f"{right[1]:.4g}): there is an operator that is not smooth, such as relu or abs at zero, rounding, sign, or a "
        "comparison"
    )


def _missing_dependences(line: _Line) -> Iterator[str]:
    """Find the parts of the computation whose derivative is wrong by itself."""
    training = line.training
    with torch.no_grad(), training.replayed():
        trained = training.train(line.point)
    if fault := _meta_loss_fault(training, trained):
        yield fault
    if trained.buffers and _is_right(_Line(training, line.point, line.along, line.gradient, trained.buffers).error()):
        yield (
            "the meta-loss uses buffers that training changes, such as running statistics; they carry no gradient: use "
            "statistics of the batch, or freeze them by eval()"
        )
    for params, batch in ((training.params, training.batches[0]), (trained.params, training.batches[-1])):
        if fault := _inner_loss_fault(training, params, batch):
            yield fault
            break


def _meta_loss_fault(training: _Training, trained: Unrolled) -> str | None:
    """Compare the gradient of the meta-loss by itself with central differences."""
    params = {name: p.detach().requires_grad_() for name, p in trained.params.items()}
    with torch.enable_grad(), training.replayed():
        loss = training.meta_loss(trained._replace(params=params))
        if not loss.requires_grad:  # it is a function of the inner losses or of snapshots alone
            return None
        found = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    generator = torch.Generator().manual_seed(0)
    along = {name: random_direction(p.detach(), generator) for name, p in params.items()}
    pairs = [(g, along[name]) for name, g in zip(params, found, strict=True) if g is not None]

    def value(shift: float) -> float:
        moved = {name: p.detach() + shift * along[name] for name, p in params.items()}
        with torch.no_grad(), training.replayed():
            return float(training.meta_loss(trained._replace(params=moved)))

    slope = sum(float(dot(g, direction)) for g, direction in pairs)
    if _is_right(distance(value, slope, typical_slope(pairs), STEPS, TOLERANCE)):
        return None
    observer = LossObserver(InnerPass(), params.values())
    with torch.enable_grad(), training.replayed(), observer:
        loss = training.meta_loss(trained._replace(params=params))
    graph = inspect_graph(loss, params.values())
    named = [*(["detach() or no_grad()"] if STOP in graph.names else []), *sorted(observer.lost)]
    named += [f"the autograd function {function.__name__}" for function in graph.custom]
    return f"the gradient of the meta-loss itself is wrong, because of {_listed(named)}"


def _inner_loss_fault(training: _Training, params: Params, batch: Batch) -> str | None:
    """Compare the derivative of the inner gradient by itself with central differences."""
    wanted = [name in training.start for name in (f"batches 0.{place}" for place in range(len(batch)))]

    def gradient(params: Params, batch: Batch) -> Params:
        with torch.no_grad(), training.replayed():
            return inner_gradient(training.loss_fn, params, training.buffers, batch, training.mode, False).grads

    def product(
        params: Params, batch: Batch, cotangents: Params
    ) -> tuple[Mapping[str, Tensor | None], Sequence[Tensor | None]]:
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        inputs = [t.detach().requires_grad_(want) for t, want in zip(batch, wanted, strict=True)]
        with torch.enable_grad(), training.replayed():
            grads = inner_gradient(training.loss_fn, leaves, training.buffers, inputs, training.mode, False).grads
            value = torch.stack([dot(grads[name], cotangents[name]) for name in leaves]).sum()
            variables = [*leaves.values(), *(t for t, want in zip(inputs, wanted, strict=True) if want)]
            found = iter(torch.autograd.grad(value, variables, allow_unused=True))
        by_params = {name: next(found) for name in leaves}
        return by_params, [next(found) if want else None for want in wanted]

    try:
        check_derivative(gradient, product, params, batch, wanted, ())
    except WrongDerivativeError:
        suspects = sorted(traits_of(training.loss_fn).suspects)
        return f"the derivative of the inner loss's gradient is wrong, because of {_listed(suspects)}"
    return None


def _listed(named: Sequence[str]) -> str:
    return ", ".join(named) if named else "values that bypass autograd, such as those that NumPy computes"


def _state(functions: Sequence[Any]) -> dict[str, Any]:
    """Return what can be seen of the state of functions: numbers, lengths, and versions of tensors."""
    held: dict[str, Any] = {}
    for function in functions:
        code = getattr(function, "__code__", None)
        names = () if code is None else code.co_freevars
        cells = getattr(function, "__closure__", None) or ()
        held |= {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}
        if code is not None:
            held |= {name: function.__globals__[name] for name in code.co_names if name in function.__globals__}
    for name, value in list(held.items()):
        module = value.module if isinstance(value, Functional) else value
        for prefix, part in module.named_modules() if isinstance(module, nn.Module) else ():
            held |= {".".join(filter(None, (name, prefix, own))): v for own, v in vars(part).items()}
            held |= {".".join(filter(None, (name, prefix, own))): b for own, b in part.named_buffers(recurse=False)}
    return {name: mark for name, value in held.items() if (mark := _mark(value)) is not None}


def _mark(value: Any) -> Any:
    if isinstance(value, Tensor):
        return version(value), id(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, list | dict | set):
        return len(value), repr(value) if len(value) < 16 else None
    return None
