"""Real data as a teacher, and what any teacher of one's own inherits."""

import pytest
import torch
from torch import nn

from gtn_lightning.curricula import NoCurriculum, ShuffledPasses
from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Batch, Field
from gtn_lightning.teachers import RealData, Teacher, TeacherInput
from tests.inner_loop.test_unroll import LiveBytes

CPU = torch.device("cpu")


def test_it_gives_real_images_with_their_own_labels() -> None:
    teacher = RealData()
    images, labels = torch.randn(7, 1, 2, 2), torch.tensor([2, 1, 0, 0, 1, 2, 2])
    teacher.attach({"inputs": images, "targets": labels})
    batch = teacher(TeacherInput(torch.tensor([0, 6, 7, 13, 16]), torch.zeros(5, dtype=torch.long), None))
    rows = [0, 6, 0, 6, 2]
    assert torch.equal(batch["inputs"], images[rows])
    assert torch.equal(batch["targets"], labels[rows])


def test_class_probabilities_are_taught_as_they_are() -> None:
    teacher = RealData()
    labels = torch.tensor([[0.1, 0.7, 0.2], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4]], dtype=torch.float64)
    teacher.attach({"inputs": torch.randn(3, 1, 2, 2), "targets": labels})
    batch = teacher(TeacherInput(torch.tensor([2, 0]), None, None))
    assert torch.equal(batch["targets"], labels[[2, 0]].float())
    assert teacher.size == 3


def test_without_a_curriculum_it_draws_from_all_images() -> None:
    teacher = RealData()
    teacher.attach({"inputs": torch.arange(200.0).view(200, 1, 1, 1), "targets": torch.arange(200) % 10})
    requests = NoCurriculum(100, 20, 10).requests(torch.Generator().manual_seed(0), CPU)
    seen = torch.cat([batch["inputs"].flatten() for batch in teacher.batches(requests)])
    assert len(seen.unique()) > 195
    assert not torch.equal(seen[:20], seen[20:40])


def test_shuffled_passes_go_through_all_of_its_images() -> None:
    teacher = RealData()
    assert teacher.size == 0
    teacher.attach({"inputs": torch.arange(60.0).view(60, 1, 1, 1), "targets": torch.arange(60) % 10})
    assert teacher.size == 60
    requests = ShuffledPasses(6, 20, 10, teacher.size).requests(torch.Generator().manual_seed(0), CPU)
    seen = torch.cat([batch["inputs"].flatten() for batch in teacher.batches(requests)])
    assert seen[:60].sort().values.tolist() == seen[60:].sort().values.tolist() == list(range(60))
    assert not torch.equal(seen[:60], seen[60:])


def test_real_images_are_neither_parameters_nor_saved() -> None:
    teacher = RealData()
    teacher.attach({"inputs": torch.randn(4, 1, 2, 2), "targets": torch.tensor([0, 1, 0, 1])})
    assert not list(teacher.parameters())
    assert not teacher.state_dict()


def test_without_images_it_says_where_they_come_from() -> None:
    with pytest.raises(RecipeError, match="RealData has no data yet: train or evaluate it through a Trainer"):
        RealData()(TeacherInput(torch.arange(2), None, None))


class Painter(Teacher):
    """A teacher of one's own: only a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = {"inputs": Field("real", (1, 8, 8)), "targets": Field("classes", classes=2)}
        self.network = nn.Sequential(nn.Linear(1, 512), nn.Tanh(), nn.Dropout(0.5), nn.Linear(512, 64))

    def forward(self, request: TeacherInput) -> Batch:
        assert request.labels is not None
        images = self.network(request.labels[:, None].float()).view(-1, 1, 8, 8)
        return {"inputs": images, "targets": request.labels}


def test_a_teacher_of_ones_own_is_rematerialised_too() -> None:
    torch.manual_seed(0)
    teacher, labels = Painter(), torch.arange(32) % 2
    requests = [TeacherInput(labels, labels, None)] * 12
    gradients, peaks = [], []
    for batches in (teacher.batches(requests), (teacher(request) for request in requests)):
        torch.manual_seed(5)  # the dropout of the second run through the teacher must be that of the first
        with LiveBytes() as live:
            loss = torch.stack([batch["inputs"].square().mean() for batch in batches]).sum()
            gradients.append(torch.autograd.grad(loss, list(teacher.parameters())))
            peaks.append(live.peak)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert peaks[0] < peaks[1] / 3
