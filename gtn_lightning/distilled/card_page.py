"""A page in Markdown that says what a file of synthetic data is, what it reaches and how to train on it."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from gtn_lightning.distilled.file import DistilledSet, read_distilled, write_distilled
from gtn_lightning.distilled.scores import metric_of
from gtn_lightning.files import whole_file

TRAINING = """```python
import torch
from safetensors.torch import load_file

data = load_file("synthetic.safetensors")
velocity = [torch.zeros_like(p) for p in net.parameters()]  # net: your network
for x, y, lr, momentum in zip(data["{inputs}"], data["{targets}"], data["lr"], data["momentum"]):
    loss = torch.nn.functional.{loss}(net(x), y)
    for p, g, v in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters())), velocity):
        size = p.detach().norm() if p.ndim > 1 else 0.1 * p.numel() ** 0.5
        v.mul_(momentum).add_(size * g / (g.norm() + 1e-4))
        p.data.sub_(lr * v)
```
"""
"""Training with LARS in plain PyTorch."""


PAGE = "README.md"
"""Name of the page beside its file."""


def write_page(folder: Path, data: DistilledSet, name: str) -> None:
    """Write the page of a file in ``folder``, with the pictures of the run below it that made the file.

    Args:
        folder: the folder of the file.
        data: what the file holds.
        name: title of the page.
    """
    with whole_file(folder / PAGE) as part:
        part.write_text(card_page(data, name, _pictures(folder)), encoding="utf-8")


def save_scores(file: Path, scores: dict[str, Any]) -> list[Path]:
    """Write scores into a file, and into the page beside it unless somebody has changed that page.

    Args:
        file: the file of synthetic data.
        scores: as `DistilledSet.with_scores` takes them.

    Returns:
        The paths that were written.
    """
    data, page = read_distilled(file), file.parent / PAGE
    scored = data.with_scores(scores)
    write_distilled(file, scored)
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    name = text.partition("\n")[0].removeprefix("# ")
    if text != card_page(data, name, _pictures(file.parent)):
        return [file]
    write_page(file.parent, scored, name)
    return [file, page]


def _pictures(folder: Path) -> list[Path]:
    return [path.relative_to(folder) for path in sorted(folder.glob("fit/*/pictures/*.png"))]


def card_page(data: DistilledSet, name: str, pictures: Sequence[PurePath] = ()) -> str:
    """Return the page.

    Args:
        data: the synthetic data.
        name: its title.
        pictures: paths of pictures, relative to the page.
    """
    card, metric = data.card, metric_of(data)
    lines = [f"# {name}", ""]
    samples = "images" if data.inputs.ndim == 5 else "rows"
    lines.append(
        f"{data.samples} synthetic {samples} of shape {list(data.inputs.shape[2:])}: {data.steps} "
        f"steps of {data.batch_size}."
    )
    for label, value in (("Made from", card.real.get("source")), ("License of that data", card.real.get("license"))):
        if value:
            lines.append(f"{label}: {value}.")
    made = card.made
    if made:
        cost = f", {made['seconds']:.0f} s of meta-training" if made.get("seconds") else ""
        lines.append(f"Made on {made.get('date')} with gtn-lightning {made.get('version')}{cost}.")
    if card.scores:
        lines += ["", f"## Test {metric.name}", ""]
        scored = card.scores.get("samples", "all")
        lines.append(
            f"{card.scores['networks']} fresh networks of each architecture, scored on {scored} test samples, beside "
            "the best real data of as many steps."
        )
        lines += ["", "| network | in meta-training | synthetic | real |", "| --- | --- | --- | --- |"]
        for architecture, scores in card.scores["architectures"].items():
            real = "" if scores["real"] is None else metric.number(scores["real"])
            met = "met" if scores["met"] else "never met"
            value = f"{metric.number(scores['mean'])} ± {metric.number(scores['std'])}"
            lines.append(f"| {architecture} | {met} | {value} | {real} |")
        lines += ["", "| trained on | mean | seconds |", "| --- | --- | --- |"]
        for source, values in card.scores["sources"].items():
            lines.append(f"| {source} | {metric.number(values['mean'])} | {values['seconds']:.0f} |")
    lines += ["", "## Train on it", ""]
    if card.optimizer["name"] == "LARS":
        lines.append(TRAINING.format(inputs=card.fields[0], targets=card.fields[1], loss=card.loss))
    else:
        lines += [f"`gtn_lightning.replay` trains with {card.optimizer['name']} as the file says.", ""]
    if "normalize_center" in data.tensors:
        lines.append('Inputs of your own: `x = (raw - data["normalize_center"]) / data["normalize_scale"]`.')
    if "whiten_matrix" in data.tensors:
        whitened = '(x - data["whiten_center"]).flatten(1) @ data["whiten_matrix"].float()'
        lines.append(f"They are then whitened: `({whitened}).view_as(x)`.")
    if card.real.get("raw"):
        lines.append(f"Raw data: {card.real['raw']}.")
    if card.real.get("columns"):
        lines.append(f"Columns: {', '.join(card.real['columns'])}.")
    if "target_center" in data.tensors:
        lines.append('Predictions: `net(x) * data["target_scale"] + data["target_center"]`.')
        lines.append("The RMSE above is in standard deviations of the targets.")
    if card.real.get("class_names"):
        lines.append(f"Classes: {', '.join(card.real['class_names'])}.")
    if pictures:
        lines += ["", "The pictures are of the last meta-step; the file is of the best one by validation."]
    for picture in pictures:
        lines += ["", f"![{picture.stem}]({picture.as_posix()})"]
    return "\n".join(lines) + "\n"
