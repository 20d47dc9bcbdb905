"""Free pixels, one gather per inner loop."""

import pytest
import torch

from gtn_lightning.curricula import Curriculum, Full, ShuffledAll
from gtn_lightning.errors import RecipeError
from gtn_lightning.teachers import Pixels, TeacherInput

CPU = torch.device("cpu")
STEPS, BATCH, CLASSES = 4, 6, 3


def teacher(soft_labels: bool) -> Pixels:
    torch.manual_seed(0)
    made = Pixels((2, 3, 5), CLASSES, STEPS * BATCH, soft_labels).double()
    if made.label_logits is not None:
        torch.nn.init.normal_(made.label_logits)
    return made


@pytest.mark.parametrize("curriculum", [Full, ShuffledAll])
@pytest.mark.parametrize("soft_labels", [False, True])
def test_the_one_gather_equals_a_forward_per_batch(soft_labels: bool, curriculum: type[Curriculum]) -> None:
    made = teacher(soft_labels)
    requests = curriculum(STEPS, BATCH, CLASSES).requests(torch.Generator().manual_seed(1), CPU)
    gathered, one_by_one = list(made.batches(requests)), [made(request) for request in requests]
    weights = torch.randn(STEPS, BATCH, dtype=torch.float64)
    gradients = []
    for batches in (gathered, one_by_one):
        loss = sum(
            (
                (w * (b["inputs"].square().sum(dim=(1, 2, 3)) + b["targets"].view(BATCH, -1)[:, 0])).sum()
                for w, b in zip(weights, batches, strict=True)
            ),
            torch.zeros(()),
        )
        gradients.append(torch.autograd.grad(loss, list(made.parameters())))
    for one, other in zip(gathered, one_by_one, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    for one, other in zip(*gradients, strict=True):
        assert one.any()
        torch.testing.assert_close(one, other)


def test_each_image_belongs_to_itself() -> None:
    made = teacher(soft_labels=False)
    batch = made(TeacherInput(torch.tensor([7, 2]), torch.tensor([1, 2]), None))
    assert torch.equal(batch["inputs"], made.pixels[[7, 2]])
    batch["inputs"].sum().backward()
    assert made.pixels.grad is not None
    assert made.pixels.grad.flatten(1).any(dim=1).nonzero().flatten().tolist() == [2, 7]


def test_soft_labels_start_at_the_class_asked_for() -> None:
    made = Pixels((1, 2, 2), 4, 8, soft_labels=True)
    labels = torch.tensor([3, 0, 0, 2])
    targets = made(TeacherInput(torch.tensor([0, 1, 5, 7]), labels, None))["targets"]
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
    assert torch.equal(targets.argmax(dim=1), labels)
    assert targets.max(dim=1).values.min() > 0.9


def test_images_start_like_normalized_real_ones() -> None:
    torch.manual_seed(0)
    pixels = Pixels((1, 8, 8), 10, 100).pixels
    assert abs(pixels.mean()) < 0.05
    assert abs(pixels.std() - 1) < 0.05


def test_images_may_start_as_real_ones_of_their_classes_and_do_so_once() -> None:
    images, labels = torch.randn(12, 1, 2, 2), torch.tensor([2, 0, 0, 1, 2, 0, 1, 1, 0, 2, 0, 0])
    made = Pixels((1, 2, 2), 3, 12, init="real")
    made.attach({"inputs": images, "targets": labels})
    for row, pixels in enumerate(made.pixels.detach()):
        same = (images == pixels).flatten(1).all(1)
        assert labels[same].tolist() == [row % 3]
    # No two alike while there are enough; of class 1 there are three for four.
    assert len(made.pixels.detach()[::3].unique(dim=0)) == 4
    assert len(made.pixels.detach()[1::3].unique(dim=0)) == 3
    before = made.pixels.detach().clone()
    loaded = Pixels((1, 2, 2), 3, 12, init="real")
    loaded.load_state_dict(made.state_dict())
    for teacher in (made, loaded):
        teacher.attach({"inputs": -images, "targets": labels})
        assert torch.equal(teacher.pixels, before)
    noise = Pixels((1, 2, 2), 3, 12)
    before = noise.pixels.detach().clone()
    noise.attach({"inputs": images, "targets": labels})
    assert torch.equal(noise.pixels, before)


def test_a_class_without_a_real_image_is_named() -> None:
    with pytest.raises(RecipeError, match="among 2 real images none is of class 1"):
        Pixels((1, 2, 2), 3, 12, init="real").attach(
            {"inputs": torch.randn(2, 1, 2, 2), "targets": torch.tensor([0, 2])}
        )


def test_no_request_no_batch() -> None:
    assert list(teacher(soft_labels=True).batches([])) == []


@pytest.mark.parametrize(
    ("shape", "classes", "images", "message"),
    [
        ((1, 8, 8), 10, 9, "images must be at least 10, the number of classes, got 9"),
        ((1, 8), 10, 20, "image_shape must be three numbers"),
        ((1, 8, 8), 1, 20, "classes must be at least 2, got 1"),
    ],
)
def test_error_messages(shape: tuple[int, int, int], classes: int, images: int, message: str) -> None:
    with pytest.raises(RecipeError, match=f"^Pixels: {message}"):
        Pixels(shape, classes, images)


def test_an_unknown_init_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^Pixels: init must be noise or real, got .zeros."):
        Pixels((1, 8, 8), 10, 20, init="zeros")


def test_real_images_with_class_probabilities_begin_as_their_most_probable_class() -> None:
    labels = torch.arange(12) % CLASSES
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 2, 3, 5)
    made = Pixels((2, 3, 5), CLASSES, 6, init="real")
    made.attach({"inputs": images, "targets": 0.4 * torch.nn.functional.one_hot(labels) + 0.2})
    assert made.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]
