"""Images with a self-supervised representation as targets: the representation is trained here, without labels."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gtn_lightning.data.base import TensorData
from gtn_lightning.data.in_memory import InMemoryData
from gtn_lightning.data.reports import Counts, Normalizes
from gtn_lightning.data.vicreg import SelfSupervision
from gtn_lightning.errors import RecipeError
from gtn_lightning.files import whole_file
from gtn_lightning.lightning import rank_zero_info, rank_zero_warn
from gtn_lightning.randomness import keyed_rng

FORMAT = "gtn-lightning target network 1"
"""Value of the metadata key ``format`` of a cached target network; another training needs another one."""

IMAGES_AT_ONCE = 1000
"""Images of which features are computed at once."""


class RepresentationData(InMemoryData, Counts, Normalizes):
    """The images of another data module, the features of a self-supervised network as targets, and their labels.

    The network is trained on the training images, without labels, and then fixed. Its features of an image, each with
    mean 0 and standard deviation 1 over the training images, are the image's targets, also if the image is augmented.
    Batches are ``(inputs, targets, labels)``; the labels are for scores alone.

    The network is cached in a file whose name is a digest of the training images and of all that its training depends
    on. Under a trainer, rank zero trains it before the other ranks read it.

    Args:
        data: the images, such as ``ImageData``; its batch sizes, seed and augmentation are used.
        target: how the network is trained.
        cache: folder of the cached networks.

    Attributes:
        network: the target network in evaluation mode, after ``setup``.

    Raises:
        RecipeError: if the data are not images in memory; from ``setup``, if the network cannot be trained.

    Examples:
        >>> from gtn_lightning.data import DigitsData, RepresentationData, VICReg
        >>> data = RepresentationData(DigitsData(), target=VICReg(dimension=16, steps=2, shift=1.0), cache="targets")
        >>> data.prepare_data()  # trains the target network, or reads it from the cache
        >>> data.setup()
        >>> inputs, targets, labels = data.some("train", 8, seed=0)
        >>> inputs.shape, targets.shape
        (torch.Size([8, 1, 8, 8]), torch.Size([8, 16]))
    """

    samples_name = "images"

    def __init__(self, data: TensorData, target: SelfSupervision, cache: str = "runs/targets") -> None:
        if not isinstance(data, TensorData):
            raise RecipeError(f"data.data must be a TensorData, such as ImageData, got a {type(data).__name__}")
        if not isinstance(target, SelfSupervision):
            raise RecipeError(f"data.target must be a SelfSupervision, such as VICReg, got a {type(target).__name__}")
        super().__init__(data.batch_size, data.eval_batch_size, data.seed)
        self.data = data
        self.target = target
        self.cache = cache
        self.network: nn.Module | None = None
        self._cost: dict[str, float] = {}

    def prepare_data(self) -> None:
        """Download the images, and train the network unless it is cached, in one process for all."""
        self.data.prepare_data()
        self.data.setup()
        self._prepare_network()

    def load(self) -> tuple[Any, ...]:
        """Read the images, and compute their targets by the network, which is trained unless it is cached."""
        self.data.setup()
        network = self._prepare_network()
        raw = [self._features(network, self.data.split(name)[0]) for name in ("train", "val", "test")]
        center, scale = raw[0].mean(0), raw[0].std(0, correction=0)
        scale = torch.where(scale > 0, scale, 1.0)
        splits = [
            (images, (features - center) / scale, labels)
            for (images, labels), features in zip(self.data.splits[:3], raw, strict=True)
        ]
        return *splits, self.data.classes

    def normalize(self, inputs: Tensor) -> Tensor:
        """Normalize raw images as the images' data module does."""
        return self.data.normalize(inputs)

    def normalization(self) -> Mapping[str, Tensor]:
        """Return mean and standard deviation of the images' channels."""
        return self.data.normalization()

    def pictured(self, inputs: Tensor) -> Tensor:
        """Return a learner's inputs as the images' data module pictures them."""
        return self.data.pictured(inputs)

    def augment(self, inputs: Tensor, key: int) -> Tensor:
        """Augment training images as their data module does."""
        return self.data.augment(inputs, key)

    def counts(self) -> dict[str, int]:
        """Return the cost of the network that this process trained or read first: images seen, and whole seconds."""
        names = {"target_images": "images", "target_seconds": "seconds"}
        counted = self.trainer is None or self.trainer.is_global_zero  # once, not once per process
        return {name: round(self._cost.get(key, 0)) if counted else 0 for name, key in names.items()}

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.data.classes

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    @torch.no_grad()
    def _features(self, network: nn.Module, images: Tensor) -> Tensor:
        device = next(network.parameters()).device
        parts = [network(self.normalize(part.to(device))).float().cpu() for part in images.split(IMAGES_AT_ONCE)]
        return torch.cat(parts)

    def _prepare_network(self) -> nn.Module:
        if self.network is not None:
            return self.network
        key = self._key()
        path = Path(self.cache).expanduser() / f"{key[:16]}.safetensors"
        with torch.inference_mode(False), keyed_rng(self.seed, "target", device=torch.device("cpu")):
            network = self.target.network(self.data.image_shape).to(self._device())
            read = self._read(path, key, network)
            if read is None:
                began = time.perf_counter()
                with torch.enable_grad():
                    images = self.target.train(network, self.data.split("train")[0], self.normalize, self.seed)
                self._cost = {"images": images, "seconds": time.perf_counter() - began}
                self._write(path, key, network)
            else:
                self._cost = read
        self.network = network.eval().requires_grad_(False)
        seconds, seen = self._cost["seconds"], self._cost["images"]
        rank_zero_info(
            f"target network: {'trained' if read is None else 'read from the cache; it was trained'} on {seen:,.0f} "
            f"images in {seconds:.1f} s ({path})"
        )
        return self.network

    def _key(self) -> str:
        """Return a digest of the training images and of everything that the network's training depends on."""
        images, normalization = self.data.split("train")[0], self.normalization()
        whitened = {name: value for name, value in normalization.items() if name.startswith("whiten")}
        facts = {
            "format": FORMAT,
            "target": self.target.settings(),
            "seed": self.seed,
            "shape": list(images.shape),
            "normalization": [
                value.flatten().tolist() for name, value in normalization.items() if name not in whitened
            ],
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for value in whitened.values():  # as bytes: a matrix is large
            digest.update(value.cpu().contiguous().numpy().data)
        digest.update(images.contiguous().numpy().data)
        return digest.hexdigest()

    def _read(self, path: Path, key: str, network: nn.Module) -> dict[str, float] | None:
        """Read a cached network's weights into ``network``, and return its cost; None if there is none of use."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if (metadata.get("format"), metadata.get("key")) != (FORMAT, key):
                raise ValueError("it holds another network")
            cost = {name: float(metadata[name]) for name in ("images", "seconds")}
            own = network.state_dict()
            alike = weights.keys() == own.keys() and all(
                (weights[name].shape, weights[name].dtype) == (tensor.shape, tensor.dtype)
                for name, tensor in own.items()
            )
            if not alike or not all(tensor.isfinite().all() for tensor in weights.values()):
                raise ValueError("its tensors are not those of the network")
            if not all(0 <= value < float("inf") for value in cost.values()):
                raise ValueError("its cost is no number")
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            rank_zero_warn(f"{path} is damaged ({' '.join(str(error).split())}): the target network is trained again")
            return None
        network.load_state_dict(weights)
        return cost

    def _write(self, path: Path, key: str, network: nn.Module) -> None:
        metadata = {"format": FORMAT, "key": key} | {name: repr(value) for name, value in self._cost.items()}
        weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
        with whole_file(path) as part:
            part.write_bytes(save(weights, metadata))
