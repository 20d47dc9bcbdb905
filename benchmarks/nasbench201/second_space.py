"""The measurements without training on the second space, the ConvNet grid on MNIST."""

import csv

import numpy as np

from benchmarks.nas_reference import TABLE, load_grid_and_data
from benchmarks.nasbench201.curves import UNTRAINED
from benchmarks.nasbench201.study import HEADER, quality
from benchmarks.report import markdown_table
from gtn_lightning.nas import TableReference
from gtn_lightning.nas.proxies.az_nas import log_rank
from gtn_lightning.nas.proxies.combined import comparable
from gtn_lightning.nas.proxies.predicted import RankPredictor
from gtn_lightning.nas.spaces import Architecture


def grid_table(path: str) -> str:
    """Return a table of the same scores on the ConvNet grid on MNIST, whose accuracies are in the repository."""
    space, data = load_grid_and_data(path)
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    networks: dict[str, list[Architecture]] = {
        part: [space.parse(name) for name in dict.fromkeys(row["architecture"] for row in rows if row["part"] == part)]
        for part in ("ranked", "known")
    }
    table = TableReference(str(TABLE))
    truth, known = (table.accuracies(space, some).mean(dim=1).numpy() for some in networks.values())
    scorers = [proxy.bind(space, data) for proxy in UNTRAINED]
    vectors = {
        part: {scorer.name: comparable([scorer.features(one).values for one in some]) for scorer in scorers}
        for part, some in networks.items()
    }
    found = {name: values[:, 0] for name, values in vectors["ranked"].items() if name != "AZ-NAS"}
    found["AZ-NAS"] = np.array(log_rank(vectors["ranked"]["AZ-NAS"]))
    encoded = {part: np.array([space.encode(one) for one in some]) for part, some in networks.items()}
    both = {part: np.hstack([encoded[part], vectors[part]["AZ-NAS"]]) for part in networks}
    for name, inputs in (("choices", encoded), ("choices, AZ-NAS", both)):
        predictor = RankPredictor(inputs["known"], known)
        found[f"{name}, told {len(known)}"] = np.array(predictor.predict(inputs["ranked"]))
    return markdown_table(
        ["score", *HEADER], [[name, *quality(values[None], truth).cells()] for name, values in found.items()]
    )
