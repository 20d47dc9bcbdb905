"""The paper's generator: its size, its weights, its labels, and what a whole inner loop of it costs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gtn_lightning.curricula import Full
from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch
from gtn_lightning.teachers import Generator, TeacherInput, generator
from tests.inner_loop.test_unroll import LiveBytes

CPU = torch.device("cpu")


def small(**options: Any) -> Generator:
    torch.manual_seed(0)
    return Generator((1, 8, 8), 10, **{"noise": 4, "hidden": 12, "channels": (6, 5), **options})


def asked(batch_size: int = 20) -> TeacherInput:
    noise = torch.randn(batch_size, 4, generator=torch.Generator().manual_seed(1))
    return TeacherInput(torch.arange(batch_size), torch.arange(batch_size) % 10, noise)


def make(teacher: Generator, batch_size: int = 20) -> Batch:
    batch: Batch = teacher(asked(batch_size))
    return batch


@pytest.mark.parametrize(("shape", "parameters"), [((1, 28, 28), 6.66e6), ((3, 32, 32), 8.63e6)])
def test_it_has_the_papers_size(shape: tuple[int, int, int], parameters: float) -> None:
    made = Generator(shape, 10)
    # The gains are the direction's norm at first: the paper counts what they and the directions make, the weights.
    numbers = [parameter.numel() for name, parameter in made.named_parameters() if not name.startswith("gains")]
    assert sum(numbers) == pytest.approx(parameters, rel=2e-3)  # the paper gives three digits


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 5, 7), (2, 6, 9), (3, 11, 4), (4, 28, 30)])
def test_it_makes_any_size_from_four_pixels_on(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    batch = Generator(shape, 3, noise=4, hidden=8, channels=(4, 4))(
        TeacherInput(torch.arange(9), torch.arange(9) % 3, torch.randn(9, 4))
    )
    assert batch["inputs"].shape == (9, *shape)
    assert batch["inputs"].abs().max() <= 2
    assert float(batch["inputs"].detach().std(dim=0).min()) > 0, "no pixel is the same in all images"


def test_images_depend_on_noise_and_on_label() -> None:
    teacher = small()
    index, labels, noise = asked()
    images = teacher(TeacherInput(index, labels, noise))["inputs"]
    assert not torch.allclose(images, teacher(TeacherInput(index, labels.roll(1), noise))["inputs"])
    assert not torch.allclose(images, teacher(TeacherInput(index, labels, noise.roll(1)))["inputs"])
    assert torch.equal(images, teacher(TeacherInput(index + 7, labels, noise))["inputs"])


def test_only_the_direction_and_the_gain_of_a_weight_matter() -> None:
    teacher = small()
    layers = [layer for layer in teacher.network if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert len(layers) == len(teacher.gains) == 4
    before = make(teacher)["inputs"]
    for layer, stored in zip(layers, teacher.weights().values(), strict=True):
        torch.testing.assert_close(stored, layer.weight)  # at first the gain is the norm
    with torch.no_grad():
        for layer in layers:
            layer.weight *= 3.5
    torch.testing.assert_close(make(teacher)["inputs"], before)
    with torch.no_grad():
        for gain in teacher.gains.values():
            gain *= 0.5
    assert not torch.allclose(make(teacher)["inputs"], before, atol=1e-3)
    for gain, weight in zip(teacher.gains.values(), teacher.weights().values(), strict=True):
        torch.testing.assert_close(weight.flatten(1).norm(dim=1), gain)


def test_the_gradient_is_orthogonal_to_the_direction() -> None:
    teacher = small()
    make(teacher)["inputs"].square().sum().backward()
    for layer in teacher.network:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            gradient = layer.weight.grad
            assert gradient is not None
            assert gradient.any()
            inner = (gradient * layer.weight.detach()).flatten(1).sum(dim=1)
            assert float(inner.abs().max()) < 1e-4 * float(gradient.norm() * layer.weight.detach().norm())


@pytest.mark.parametrize("training", [True, False])
def test_statistics_are_those_of_the_inner_batch(training: bool) -> None:
    teacher = small().train(training)
    assert not list(teacher.buffers())
    index, labels, noise = asked(40)
    whole = teacher(TeacherInput(index, labels, noise))["inputs"]
    half = teacher(TeacherInput(index[:20], labels[:20], noise[:20]))["inputs"]
    assert not torch.allclose(whole[:20], half, atol=1e-3), "an image depends on the others in its batch"
    curriculum = Full(2, 20, 10, noise=4)
    with torch.no_grad():
        assert curriculum.vectors is not None
        curriculum.vectors.copy_(noise)
    first = next(iter(teacher.batches(curriculum.requests(torch.Generator(), CPU))))["inputs"]
    torch.testing.assert_close(first, half)


def test_soft_labels_start_sharp_and_are_learned_per_class() -> None:
    teacher = small(soft_labels=True)
    batch = make(teacher)
    assert batch["targets"].shape == (20, 10)
    torch.testing.assert_close(batch["targets"].sum(dim=1), torch.ones(20))
    assert torch.equal(batch["targets"].argmax(dim=1), batch["labels"])
    assert 0.9 < batch["targets"].max() < 0.97
    batch["targets"][3, 5].backward()
    assert teacher.label_logits is not None
    assert teacher.label_logits.grad is not None
    assert teacher.label_logits.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [3]
    hard = make(small())
    assert torch.equal(hard["targets"], hard["labels"])


# What one inner batch takes by the generator's reckoning, with five channels before the last convolution.
BATCH_BYTES = 20 * 8 * 8 * 5 * 16


@pytest.mark.parametrize("together", [1, 2, 5])
def test_batches_made_in_chunks_have_the_gradient_of_plain_autograd(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "CHUNK_BYTES", together * BATCH_BYTES)
    teacher, curriculum = small(soft_labels=True).double(), Full(5, 20, 10, noise=4).double()
    variables = [*teacher.parameters(), *curriculum.parameters()]
    weights = torch.randn(5, 20, 1, 8, 8, dtype=torch.float64)

    def loss(batches: list[Batch]) -> Tensor:
        return sum(
            (
                ((batch["inputs"] * weight).sum() * batch["targets"][:, 0].sum())
                for batch, weight in zip(batches, weights, strict=True)
            ),
            torch.zeros(()),
        )

    in_chunks = list(teacher.batches(curriculum.requests(torch.Generator(), CPU)))
    plain = [teacher(request) for request in curriculum.requests(torch.Generator(), CPU)]
    for one, other in zip(in_chunks, plain, strict=True):
        torch.testing.assert_close(one["inputs"], other["inputs"], rtol=1e-12, atol=1e-12)
    found, expected = (torch.autograd.grad(loss(batches), variables) for batches in (in_chunks, plain))
    for gradient, reference in zip(found, expected, strict=True):
        # A bias before batch normalization has no effect: its gradient is rounding.
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-9)
    assert sum(bool(gradient.abs().max() > 1e-6) for gradient in found) >= len(found) - 4


def peak(teacher: Generator, steps: int, in_chunks: bool) -> int:
    """Bytes alive at the worst moment of making ``steps`` batches and going back through them."""
    curriculum = Full(steps, 20, 10, noise=4)
    teacher.zero_grad()
    with LiveBytes() as live:
        requests = curriculum.requests(torch.Generator(), CPU)
        batches = teacher.batches(requests) if in_chunks else (teacher(request) for request in requests)
        torch.stack([batch["inputs"].square().mean() for batch in batches]).sum().backward()
    return live.peak


def test_memory_does_not_grow_with_activations_times_inner_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "CHUNK_BYTES", 20 * 8 * 8 * 32 * 16)
    teacher = small(hidden=64, channels=(32, 32))
    image_bytes = 20 * 64 * 4
    per_step = {chunks: (peak(teacher, 16, chunks) - peak(teacher, 4, chunks)) / 12 for chunks in (False, True)}
    print(f"bytes per inner step: {per_step[True]:.0f} in chunks, {per_step[False]:.0f} plainly; image {image_bytes}")
    # What is left to grow: the images themselves, the noise, and the gradients of these.
    assert per_step[True] <= 3 * image_bytes
    assert per_step[False] >= 15 * image_bytes


def test_batches_of_different_sizes_keep_their_own_statistics() -> None:
    teacher = small()
    requests = [TeacherInput(*(part[:size] for part in asked())) for size in (20, 12, 20)]
    for request, batch in zip(requests, teacher.batches(requests), strict=True):
        torch.testing.assert_close(batch["inputs"], teacher(request)["inputs"])


def test_statistics_stay_apart_with_synchronised_batch_norm() -> None:
    teacher = nn.SyncBatchNorm.convert_sync_batchnorm(small())
    requests = [asked(), TeacherInput(*(part.flip(0) for part in asked()))]
    expected = [small()(request)["inputs"] for request in requests]
    for batch, images in zip(teacher.batches(requests), expected, strict=True):
        torch.testing.assert_close(batch["inputs"], images)


def test_a_subclass_with_a_forward_of_its_own_is_heard() -> None:
    class Black(Generator):
        def forward(self, request: TeacherInput) -> Batch:
            batch = super().forward(request)
            return batch | {"inputs": 0 * batch["inputs"]}

    torch.manual_seed(0)
    teacher = Black((1, 8, 8), 10, noise=4, hidden=12, channels=(6, 5))
    (batch,) = teacher.batches([asked()])
    assert not batch["inputs"].any()
    assert list(teacher.batches([])) == []


def test_without_grad_mode_there_is_no_graph() -> None:
    teacher = small()
    requests = Full(2, 20, 10, noise=4).requests(torch.Generator(), CPU)
    with torch.no_grad():
        assert not any(batch["inputs"].requires_grad for batch in teacher.batches(requests))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"image_shape": (1, 3, 8)},
            r"image_shape must be at least 4 x 4 pixels .*, got \[1, 3, 8\]: use the teacher Pixels",
        ),
        ({"image_shape": (1, 8, 3)}, r"must be at least 4 x 4 pixels"),
        ({"image_shape": (8, 8)}, r"image_shape must be three numbers of at least 1.*got \[8, 8\]"),
        ({"image_shape": (0, 8, 8)}, r"image_shape must be three numbers of at least 1"),
        ({"classes": 1}, r"classes must be at least 2, got 1"),
        ({"noise": 0}, r"noise, hidden and channels must be at least 1, got noise 0"),
        ({"channels": (4, 0)}, r"channels \[4, 0\]"),
    ],
)
def test_error_messages(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"Generator: .*{message}"):
        Generator(**{"image_shape": (1, 8, 8), "classes": 10, **arguments})


def test_a_curriculum_without_noise_is_refused() -> None:
    with pytest.raises(RecipeError, match="the curriculum gives no noise: set its noise"):
        small()(TeacherInput(torch.arange(4), torch.arange(4), None))


def unlabelled(**options: Any) -> Generator:
    torch.manual_seed(0)
    return Generator((1, 8, 8), **{"noise": 4, "hidden": 12, "channels": (6, 5), **options})


def test_without_classes_noise_makes_images_and_their_targets() -> None:
    index, _, noise = asked()
    batch = unlabelled(targets=3)(TeacherInput(index, None, noise))
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "inputs": (20, 1, 8, 8),
        "targets": (20, 3),
    }
    assert float(batch["targets"].detach().std(0).min()) > 0
    alone = unlabelled()(TeacherInput(index, None, noise))
    assert alone.keys() == {"inputs"}
    torch.testing.assert_close(alone["inputs"], batch["inputs"])  # targets do not change the images


@pytest.mark.parametrize("chunk", [1, 2**26])
def test_without_classes_a_whole_loop_is_as_batch_by_batch(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "CHUNK_BYTES", chunk)
    teacher = unlabelled(targets=3)
    requests = Full(4, 6, noise=4).requests(torch.Generator(), CPU)
    whole, single = list(teacher.batches(requests)), [teacher(request) for request in requests]
    gradients = []
    for batches in (whole, single):
        loss = sum((value.square().sum() for batch in batches for value in batch.values()), torch.zeros(()))
        gradients.append(torch.autograd.grad(loss, list(teacher.parameters()), allow_unused=True))
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    for batch, expected in zip(whole, single, strict=True):
        for name in expected:
            torch.testing.assert_close(batch[name], expected[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 10, "targets": 3}, "Generator: targets must be left out with classes, got 3"),
        ({"targets": 0}, "Generator: targets must be at least 1, got 0"),
        ({"soft_labels": True}, "Generator: soft_labels needs classes, got none"),
    ],
)
def test_classes_and_values_exclude_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        unlabelled(**options)
