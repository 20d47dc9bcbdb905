"""Parts of one's own, each of which a recipe names by its class path: no registration, no change in the package."""

import torch
from torch import nn

from gtn_lightning.data import Split, Splits, TensorData
from gtn_lightning.fields import Batch, Field
from gtn_lightning.tasks import Classification
from gtn_lightning.teachers import Teacher, TeacherInput


class MyLearner(nn.Sequential):
    """Any module from images [B, C, H, W] to logits [B, classes]."""

    def __init__(self, pixels: int, classes: int, hidden: int = 32) -> None:
        super().__init__(nn.Flatten(), nn.Linear(pixels, hidden), nn.Tanh(), nn.Linear(hidden, classes))


class MyTeacher(Teacher):
    """Noise around one image per class. Arguments stored under their own names are what a teacher file holds."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, noise: int) -> None:
        super().__init__()
        self.image_shape, self.classes, self.noise = image_shape, classes, noise
        self.fields = {"inputs": Field("real", image_shape), "targets": Field("classes", classes=classes)}
        self.means = nn.Parameter(torch.zeros(classes, *image_shape))
        self.spread = nn.Linear(noise, self.means[0].numel())

    def forward(self, request: TeacherInput) -> Batch:
        images = self.means[request.labels] + self.spread(request.noise).view(-1, *self.image_shape)
        return {"inputs": images, "targets": request.labels}


class MyTask(Classification):
    """Classification that takes the meta-loss after the first half of the inner steps too."""

    def meta_steps(self, steps: int) -> list[int]:
        return sorted({-(-steps // 2), steps})


class MyData(TensorData):
    """Squares of noise, the brighter the higher their class; only ``load`` has to be written."""

    def __init__(self, classes: int = 3, images: int = 600, batch_size: int = 64, eval_batch_size: int = 100) -> None:
        super().__init__(batch_size, eval_batch_size)
        self.number, self.images = classes, images

    def load(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(self.images) % self.number
        noise = torch.randint(100, (self.images, 1, 4, 4), generator=generator)
        everything = Split((noise + 60 * labels[:, None, None, None]).to(torch.uint8), labels)
        train, val, test = (everything.take(rows) for rows in torch.arange(self.images).chunk(3))
        return Splits(train, val, test, self.number)
