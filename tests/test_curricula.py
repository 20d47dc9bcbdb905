"""What each curriculum asks of the teacher, and in which order."""

import pytest
import torch
from torch import Tensor

from gtn_lightning.curricula import Curriculum, Full, NoCurriculum, ShuffledAll, ShuffledBatches, ShuffledPasses
from gtn_lightning.errors import RecipeError
from gtn_lightning.teachers import TeacherInput

CPU = torch.device("cpu")
STEPS, BATCH, CLASSES, NOISE = 6, 20, 10, 3

every_curriculum = pytest.mark.parametrize("cls", [Full, ShuffledBatches, ShuffledAll, NoCurriculum])


def ask(curriculum: Curriculum, key: int = 0) -> list[TeacherInput]:
    return curriculum.requests(torch.Generator().manual_seed(key), CPU)


def indices(curriculum: Curriculum, key: int = 0) -> Tensor:
    return torch.stack([request.index for request in ask(curriculum, key)])


@every_curriculum
def test_one_request_per_inner_step(cls: type[Curriculum]) -> None:
    requests = ask(cls(STEPS, BATCH, CLASSES, NOISE))
    assert len(requests) == STEPS
    for request in requests:
        assert request.index.shape == request.labels.shape == (BATCH,)
        assert request.index.dtype == request.labels.dtype == torch.int64
        assert request.noise is not None
        assert request.noise.shape == (BATCH, NOISE)
    assert all(request.noise is None for request in ask(cls(STEPS, BATCH, CLASSES)))


@every_curriculum
def test_labels_are_even_over_the_inner_loop(cls: type[Curriculum]) -> None:
    labels = torch.stack([request.labels for request in ask(cls(STEPS, BATCH, CLASSES), key=4)])
    assert labels.flatten().bincount().tolist() == [STEPS * BATCH // CLASSES] * CLASSES
    if cls is not ShuffledAll:
        assert all(step.bincount(minlength=CLASSES).tolist() == [2] * CLASSES for step in labels)


@pytest.mark.parametrize("cls", [Full, ShuffledBatches, NoCurriculum])
def test_every_batch_shows_every_class_where_they_do_not_divide_it(cls: type[Curriculum]) -> None:
    for request in ask(cls(STEPS, 13, CLASSES)):
        counts = request.labels.bincount(minlength=CLASSES)
        assert counts.min() >= 1
        assert counts.max() <= 2


@every_curriculum
def test_requests_are_a_function_of_the_generator(cls: type[Curriculum]) -> None:
    curriculum = cls(STEPS, BATCH, CLASSES, NOISE)
    assert torch.equal(indices(curriculum, key=1), indices(curriculum, key=1))
    same_in_every_loop = torch.equal(indices(curriculum, key=1), indices(curriculum, key=2))
    assert same_in_every_loop == (cls is Full)


def test_full_shows_the_pool_in_order() -> None:
    assert indices(Full(STEPS, BATCH, CLASSES)).flatten().tolist() == list(range(STEPS * BATCH))


def test_shuffled_batches_keeps_batches_together() -> None:
    shuffled, ordered = indices(ShuffledBatches(STEPS, BATCH, CLASSES), key=5), indices(Full(STEPS, BATCH, CLASSES))
    order = (shuffled[:, 0] // BATCH).tolist()
    assert sorted(order) == list(range(STEPS))
    assert order != list(range(STEPS))
    assert torch.equal(shuffled, ordered[order])


def test_shuffled_all_mixes_the_batches() -> None:
    shuffled = indices(ShuffledAll(STEPS, BATCH, CLASSES), key=5)
    assert sorted(shuffled.flatten().tolist()) == list(range(STEPS * BATCH))
    assert all(len((step // BATCH).unique()) > 1 for step in shuffled)


@pytest.mark.parametrize("cls", [Full, ShuffledBatches, ShuffledAll])
def test_an_image_keeps_its_noise_and_its_label_wherever_it_is_shown(cls: type[Full]) -> None:
    curriculum = cls(STEPS, BATCH, CLASSES, NOISE)
    assert curriculum.vectors is not None
    for request in ask(curriculum, key=2):
        assert request.noise is not None
        assert torch.equal(request.noise, curriculum.vectors[request.index])
        assert torch.equal(request.labels, request.index % CLASSES)


@pytest.mark.parametrize("cls", [Full, ShuffledBatches, ShuffledAll])
def test_noise_is_learned_or_fixed(cls: type[Full]) -> None:
    for learned in (True, False):
        curriculum = cls(STEPS, BATCH, CLASSES, NOISE, learned=learned)
        assert "vectors" in curriculum.state_dict(), "fixed noise too belongs into the teacher file"
        noise = [request.noise for request in ask(curriculum)]
        assert [vectors is not None and vectors.requires_grad for vectors in noise] == [learned] * STEPS
        assert [parameter.requires_grad for parameter in curriculum.parameters()] == [learned]
    assert not list(cls(STEPS, BATCH, CLASSES).parameters())


def test_the_gradient_of_the_noise_reaches_its_own_rows() -> None:
    curriculum = Full(STEPS, BATCH, CLASSES, NOISE)
    noise = ask(curriculum)[2].noise
    assert noise is not None
    noise.sum().backward()
    assert curriculum.vectors is not None
    assert curriculum.vectors.grad is not None
    rows = curriculum.vectors.grad.abs().sum(dim=1).nonzero().flatten()
    assert rows.tolist() == list(range(2 * BATCH, 3 * BATCH))


def test_no_curriculum_has_fresh_noise_in_every_step_of_every_loop() -> None:
    curriculum = NoCurriculum(STEPS, BATCH, CLASSES, NOISE)
    assert not list(curriculum.parameters())
    noise = [request.noise for key in (0, 1) for request in ask(curriculum, key)]
    vectors = torch.cat([vectors for vectors in noise if vectors is not None])
    assert len(vectors) == len(vectors.unique(dim=0)) == 2 * STEPS * BATCH
    assert abs(float(vectors.mean())) < 0.15
    assert abs(float(vectors.std()) - 1) < 0.15


def test_shuffled_passes_show_every_image_once_per_pass_in_a_new_order() -> None:
    images = 50
    seen = indices(ShuffledPasses(STEPS, BATCH, CLASSES, images), key=3).flatten()
    assert len(seen) == STEPS * BATCH == 120
    passes = [seen[:50], seen[50:100], seen[100:]]
    assert [len(each.unique()) for each in passes] == [50, 50, 20]
    assert not torch.equal(passes[0], passes[1])
    assert seen.max() == images - 1
    again, other = (indices(ShuffledPasses(STEPS, BATCH, CLASSES, images), key=key).flatten() for key in (3, 4))
    assert torch.equal(seen, again)
    assert not torch.equal(seen, other)


def test_a_loop_shorter_than_a_pass_sees_no_image_twice_and_loops_differ() -> None:
    curriculum = ShuffledPasses(STEPS, BATCH, CLASSES, 1000)
    loops = [indices(curriculum, key).flatten() for key in range(40)]
    assert all(len(loop.unique()) == STEPS * BATCH for loop in loops)
    assert len(torch.cat(loops).unique()) > 980, "no image is left out for good"


def test_pool() -> None:
    assert ShuffledPasses(STEPS, BATCH, CLASSES, 50).pool == 50
    assert [cls(STEPS, BATCH, CLASSES).pool for cls in (Full, ShuffledBatches, ShuffledAll)] == [STEPS * BATCH] * 3
    assert NoCurriculum(STEPS, BATCH, CLASSES).pool is None


@every_curriculum
@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 20, 10), r"steps, the number of inner steps, must be at least 1, got 0"),
        ((4, 20, 1), r"classes must be at least 2, got 1"),
        ((4, 9, 10), r"batch_size must be at least 10, so that every inner step has all classes, got 9"),
        ((4, 20, 10, -1), r"noise must be at least 0, got -1"),
    ],
)
def test_error_messages(cls: type[Curriculum], numbers: tuple[int, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{cls.__name__}: {message}$"):
        cls(*numbers)


def test_shuffled_passes_need_images() -> None:
    with pytest.raises(RecipeError, match=r"^ShuffledPasses: images must be at least 1, got 0$"):
        ShuffledPasses(STEPS, BATCH, CLASSES, 0)
