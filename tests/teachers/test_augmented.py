"""Random changes of another teacher's images: an exact meta-gradient, only in training, the same when recomputed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gtn_lightning import GTN
from gtn_lightning.curricula import Full
from gtn_lightning.data import DigitsData
from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Field
from gtn_lightning.inner_loop import SGD, Functional, unroll
from gtn_lightning.learners import MLP
from gtn_lightning.teachers import Augmented, FreeTensors, Generator, Pixels
from tests.tiny import BATCH, SHAPE, STEPS, make_gtn, make_trainer, same, with_generator

CPU = torch.device("cpu")


@pytest.mark.parametrize("segment", [None, 2])
@pytest.mark.parametrize("name", ["pixels", "generator"])
def test_the_meta_gradient_is_that_of_central_differences(name: str, segment: int | None) -> None:
    torch.manual_seed(0)
    inner = Pixels((1, 6, 5), 2, 12) if name == "pixels" else Generator((1, 8, 8), 2, 3, hidden=6, channels=(3, 3))
    teacher = Augmented(inner, crop=1, flip=True, rotate=20.0, scale=0.1, shift=0.5).double()
    shape = inner.fields["inputs"].sample_shape
    requests = Full(3, 4, 2, noise=inner.noise).double().requests(torch.Generator(), CPU)
    network = Functional(MLP(shape, 2, hidden=[5], activation="tanh").double())
    params, buffers = network.init()
    real, answers = torch.randn(10, *shape).double(), torch.arange(10) % 2

    def loss(
        params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        outputs, buffers = network(params, buffers, x)
        return F.cross_entropy(outputs, y), buffers

    def meta_loss() -> Tensor:
        torch.manual_seed(5)  # as a meta-step seeds it by its key
        batches = ((batch["inputs"], batch["targets"]) for batch in teacher.batches(requests))
        trained = unroll(loss, params, buffers, batches, SGD(0.5, momentum=0.5), mode="remat", segment=segment)
        return loss(trained.params, trained.buffers, real, answers)[0]

    parameters = [parameter for parameter in teacher.parameters() if parameter.requires_grad]
    gradient = torch.autograd.grad(meta_loss(), parameters)
    direction = [torch.randn_like(part) for part in gradient]
    expected = sum((part * along).sum() for part, along in zip(gradient, direction, strict=True))

    def at(distance: float) -> Tensor:
        with torch.no_grad():
            for parameter, along in zip(parameters, direction, strict=True):
                parameter.add_(along, alpha=distance)
            value = meta_loss()
            for parameter, along in zip(parameters, direction, strict=True):
                parameter.sub_(along, alpha=distance)
        return value

    step = 1e-5
    assert isinstance(expected, Tensor)
    assert expected.abs() > 1e-4
    torch.testing.assert_close((at(step) - at(-step)) / (2 * step), expected, rtol=1e-6, atol=1e-9)


def test_every_image_and_every_step_is_changed_differently() -> None:
    plain = Pixels((1, 7, 7), 2, 4)
    with torch.no_grad():
        plain.pixels.copy_(torch.arange(49.0).view(1, 1, 7, 7))  # all alike
    teacher = Augmented(plain, rotate=30.0)
    request = Full(1, 4, 2).requests(torch.Generator(), CPU)[0]
    torch.manual_seed(1)
    images = torch.cat([batch["inputs"] for batch in teacher.batches([request, request])])
    assert len(images.flatten(1).unique(dim=0)) == 8
    torch.manual_seed(1)
    again = torch.cat([batch["inputs"] for batch in teacher.batches([request, request])])
    assert torch.equal(images, again)
    teacher.eval()
    assert torch.equal(teacher(request)["inputs"], plain.pixels)


def test_a_run_with_it_is_reproducible_and_evaluates_and_exports_plain_images(tmp_path: Path) -> None:
    def fitted(flip: bool) -> GTN:
        torch.manual_seed(0)
        teacher = Augmented(Pixels(SHAPE, 10, STEPS * BATCH, soft_labels=True, init="real"), flip=flip, rotate=10.0)
        gtn = make_gtn(teacher=teacher)
        make_trainer(tmp_path, max_steps=3).fit(gtn, DigitsData(32))
        return gtn

    one, other = fitted(True), fitted(True)
    assert same(one.state_dict(), other.state_dict())
    assert not same(one.state_dict(), fitted(False).state_dict())
    (batch, *_) = make_trainer(tmp_path).predict(one, datamodule=DigitsData(32))  # type: ignore[misc]
    assert isinstance(one.teacher, Augmented)
    assert isinstance(one.teacher.teacher, Pixels)
    assert torch.equal(batch["inputs"], one.teacher.teacher.pixels[:BATCH])  # type: ignore[index, call-overload]
    path = tmp_path / "teacher.safetensors"
    one.save_teacher(path)
    restored = GTN.from_teacher(path)
    assert isinstance(restored.teacher, Augmented)
    assert (restored.teacher.flip, restored.teacher.rotate) == (True, 10.0)


def test_a_generator_inside_keeps_its_noise() -> None:
    parts = with_generator()
    gtn = make_gtn(**parts | {"teacher": Augmented(parts["teacher"], flip=True)})
    assert gtn.teacher.noise == parts["teacher"].noise


def test_what_it_cannot_change_is_refused() -> None:
    rows = FreeTensors({"inputs": Field("real", (13,)), "targets": Field("classes", classes=3)}, 9)
    with pytest.raises(RecipeError, match="expected a teacher that makes images as inputs"):
        Augmented(rows, flip=True)
    with pytest.raises(RecipeError, match="scale must be below 1, got 1"):
        Augmented(Pixels(SHAPE, 10, 10), scale=1.0)
    with pytest.raises(RecipeError, match="rotate must be at least 0"):
        Augmented(Pixels(SHAPE, 10, 10), rotate=-1.0)
