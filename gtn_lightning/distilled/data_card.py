"""The data-set card of synthetic data on the Hugging Face hub: its README.md."""

import re
from typing import Any

import yaml

from gtn_lightning.distilled.file import DistilledSet

LICENSES = (
    *("afl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc", "cc0-1.0", "cc-by-3.0", "cc-by-4.0"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "gpl-3.0", "mit", "odc-by", "pddl"),
    "unknown",
)
"""Names of licenses on the hub; another one is called ``other``."""


def data_card(data: DistilledSet, class_names: list[str], pixels: str | None) -> str:
    """Return the text of a data-set card: license of the source, tags, how it was made, how to train on it, scores.

    Args:
        data: the synthetic data.
        class_names: names of the classes; empty without classes.
        pixels: how the column ``image`` shows the inputs; None if there is none.
    """
    card = data.card
    source = card.real.get("source") or "data that its card does not name"
    shape = ", ".join(map(str, data.inputs.shape[2:]))
    outputs = f"{len(class_names)} logits" if class_names else f"outputs like {card.fields[1]}"
    raw = (
        "Real data becomes a network's inputs by `(raw - normalize_center) / normalize_scale`.\n"
        if "normalize_center" in data.tensors
        else ""
    )
    if "whiten_matrix" in data.tensors:
        raw += "These are then whitened: `(inputs - whiten_center)`, flattened, times `whiten_matrix`.\n"
    column = (
        f"The column `image` is for viewing ({pixels}).\n"
        if pixels
        else "The column `inputs` holds samples as a network takes them.\n"
    )
    return f"""---
{yaml.safe_dump(_front_matter(data, pixels is not None), sort_keys=False, allow_unicode=True).rstrip()}
---

# Synthetic data

{data.steps} batches of {data.batch_size} synthetic samples, distilled from {source}.
They train a new network in {data.steps} steps of {card.optimizer["name"]}, in their order, with a rate for each step.
They were made with gtn-lightning, by a generative teaching network ([paper](https://arxiv.org/abs/1912.07768)).
{column}`synthetic.safetensors` holds the exact data and the rates: train on that.
`replay.py` does so with torch and safetensors alone.

## How to train on it

```python
from replay import load, train

data, card = load("synthetic.safetensors")
network = ...  # takes {card.fields[0]} [N, {shape}] and returns {outputs}
train(network, data, card)
```

{raw}The rates fit the networks below; for another architecture, try `train(..., scale=0.1)` or `scale=0.3` as well.

## How it was made

```yaml
{_block({"learners": card.learners, "task": card.task, "data": card.data, "made": card.made})}
```

## Scores

{f"```yaml{chr(10)}{_block(card.scores)}{chr(10)}```" if card.scores else "They were not measured."}

## License

License of the source: {card.real.get("license") or "unknown"}.
"""


def _front_matter(data: DistilledSet, images: bool) -> dict[str, Any]:
    text = str(data.card.real.get("license") or "unknown")
    name = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
    kind = "classification" if data.card.loss == "cross_entropy" else "regression"
    task = f"{'image' if images else 'tabular'}-{kind}"
    known = ("image-classification", "tabular-classification", "tabular-regression")
    return {
        "license": name if name in LICENSES else "other",
        **({} if name in LICENSES else {"license_name": name, "license_details": text}),
        **({"task_categories": [task]} if task in known else {}),
        "tags": ["dataset-distillation", "synthetic", "generative-teaching-networks", "gtn-lightning"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    }


def _block(content: Any) -> str:
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True)).rstrip()
