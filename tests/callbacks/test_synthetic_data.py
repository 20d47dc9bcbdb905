"""The file of synthetic data."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file


def test_the_file_holds_every_step_in_order(run):
    tensors = load_file(run.folder / "synthetic.safetensors")
    batches = [run.gtn.synthetic_batch(step) for step in range(run.gtn.inner_loop.steps)]
    for name in ("inputs", "targets", "labels"):
        expected = torch.stack([batch[name] for batch in batches])
        torch.testing.assert_close(tensors[name], expected, rtol=0, atol=0)
    for name, values in run.gtn.inner_optimizer.schedules(run.gtn.inner_loop.steps).items():
        torch.testing.assert_close(tensors[name], values)


def test_the_metadata_explains_every_tensor(run):
    with safe_open(run.folder / "synthetic.safetensors", framework="pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert set(json.loads(metadata["description"])) == names
    assert metadata["optimizer"] == "SGD"
