"""Training on a file with torch and safetensors alone, against the inner loop."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtn_lightning import replay
from gtn_lightning.distilled import write_distilled
from gtn_lightning.inner_loop import LARS, SGD, Adam, Functional, InnerOptimizer, Params, unroll
from tests.distilled.sets import small_set

OPTIMIZERS = [
    SGD(0.1, 0.8, learned_per_step=["lr"], steps=4),
    SGD(0.1, 0.8, nesterov=True, weight_decay=0.1),
    Adam(0.05, 0.8, 0.9, eps=1e-3, weight_decay=0.1),
    LARS(0.1, 0.6),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("passes", [1, 3])
def test_it_trains_as_the_inner_loop_does(optimizer: InnerOptimizer, passes: int, tmp_path: Path) -> None:
    write_distilled(tmp_path / "synthetic.safetensors", small_set(optimizer))
    data, card = replay.load(str(tmp_path / "synthetic.safetensors"))
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    learner = Functional(net)

    def loss(params: Params, buffers: Params, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Params]:
        outputs, buffers = learner(params, buffers, inputs)
        return F.cross_entropy(outputs, targets), buffers

    batches = list(zip(data["inputs"], data["targets"], strict=True)) * passes
    # The inner loop counts on, where replay begins again with the first rate.
    constant = optimizer.constant() if passes > 1 else optimizer
    if passes > 1:
        data |= constant.schedules(4)
    expected = unroll(loss, *learner.init(), batches, constant)
    replay.train(net, data, card, passes=passes)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter, expected.params[name], rtol=1e-4, atol=1e-5)
    for name, buffer in net.named_buffers():
        torch.testing.assert_close(buffer, expected.buffers[name], rtol=1e-4, atol=1e-5)


def test_the_module_is_short_and_needs_torch_and_safetensors_alone(tmp_path: Path) -> None:
    text = Path(replay.__file__).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    (tmp_path / "replay.py").write_text(text, encoding="utf-8")
    write_distilled(tmp_path / "synthetic.safetensors", small_set(LARS()))
    program = (
        "import sys; sys.modules['gtn_lightning'] = None\n"
        "import torch, replay\n"
        "data, card = replay.load('synthetic.safetensors')\n"
        "net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))\n"
        "replay.train(net, data, card)\n"
        "right = net(data['inputs'][0]).argmax(1) == data['targets'][0].argmax(1)\n"
        "print(card['loss'], float(right.float().mean()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["cross_entropy", "1.0"]


def test_a_parameter_that_is_not_used_stays_as_it_is(tmp_path: Path) -> None:
    write_distilled(tmp_path / "synthetic.safetensors", small_set(LARS()))
    data, card = replay.load(str(tmp_path / "synthetic.safetensors"))
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    net.register_parameter("spare", nn.Parameter(torch.ones(3, 3)))
    replay.train(net, data, card)
    assert torch.equal(net.get_parameter("spare"), torch.ones(3, 3))
