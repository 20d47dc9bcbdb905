"""The file of synthetic data."""

import torch
from safetensors.torch import load_file

from gtn_lightning import __version__
from gtn_lightning.distilled import read_distilled


def test_the_file_holds_every_step_in_order(run):
    tensors = load_file(run.folder / "synthetic.safetensors")
    batches = [run.gtn.synthetic_batch(step) for step in range(run.gtn.inner_loop.steps)]
    for name in ("inputs", "targets", "labels"):
        expected = torch.stack([batch[name] for batch in batches])
        torch.testing.assert_close(tensors[name], expected, rtol=0, atol=0)
    for name, values in run.gtn.inner_optimizer.schedules(run.gtn.inner_loop.steps).items():
        torch.testing.assert_close(tensors[name], values)


def test_the_card_says_how_to_train_and_what_the_data_is(run):
    data = read_distilled(run.folder / "synthetic.safetensors")
    card = data.card
    assert set(card.description) == set(data.tensors)
    assert card.optimizer == {"name": "SGD", "hyperparameters": ["lr", "momentum", "weight_decay"], "nesterov": False}
    assert (card.fields, card.loss) == (["inputs", "targets"], "cross_entropy")
    assert card.real["class_names"][0] == "0"
    assert card.real["license"] == "CC BY 4.0"
    assert card.data["class_path"].endswith("DigitsData")
    assert card.made["version"] == __version__
    assert card.made["meta_steps"] > 0
