"""The parts of benchmarks.nasbench201 that need neither the table nor CIFAR-10."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.nasbench201.curves import Cache, append_line
from benchmarks.nasbench201.searches import (
    Ground,
    Search,
    at_random,
    best_so_far,
    by_rank,
    by_rank_then_guided,
    evolution,
    guided,
    tpe,
)
from benchmarks.nasbench201.study import quality, spearman
from gtn_lightning.nas.spaces import NASBench201
from gtn_lightning.randomness import keyed_generator

SPACE = NASBench201((3, 8, 8), 10, cells=1, channels=4)


@pytest.fixture(scope="module")
def ground() -> Ground:
    """Cells whose accuracy grows with the operations that the encoding counts."""
    cells = SPACE.draw(300, keyed_generator(0, "ground"))
    inputs = np.array([SPACE.encode(cell) for cell in cells])
    true = 0.5 + 0.05 * inputs[:, 1] + 0.08 * inputs[:, 2] - 0.02 * inputs[:, 3]
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(cells))
    return Ground(SPACE, cells, true + noise, true, inputs, inputs[:, 2])


@pytest.mark.parametrize("search", [at_random, evolution, tpe, guided, by_rank_then_guided])
def test_a_search_trains_each_cell_once_and_depends_on_its_seed(search: Search, ground: Ground) -> None:
    first, again, other = (list(search(ground, 24, seed)) for seed in (0, 0, 1))
    assert len(set(first)) == 24
    assert first == again != other


def test_the_best_so_far_is_that_of_the_short_training_judged_by_the_true_accuracy(ground: Ground) -> None:
    trained = list(at_random(ground, 10, 1))
    found = best_so_far(ground, trained)
    assert found.shape == (10,)
    best = trained[int(np.argmax(ground.short[trained]))]
    assert found[-1] == pytest.approx(100 * ground.true[best])


def test_a_regression_guides_a_search(ground: Ground) -> None:
    means = [
        np.mean([best_so_far(ground, list(search(ground, 32, s)))[-1] for s in range(4)])
        for search in (guided, at_random)
    ]
    assert means[0] > means[1]


def test_quality_is_scipys_correlation_with_an_interval_around_it() -> None:
    random = np.random.default_rng(0)
    truth = random.random(60)
    scores = truth + 0.3 * random.random((2, 60))
    expected = np.mean([spearmanr(row, truth).statistic for row in scores])
    found = quality(scores, truth)
    assert found.spearman[0] == pytest.approx(expected) == spearman(scores, truth)
    assert found.spearman[1] < expected < found.spearman[2]
    assert quality(truth[None], truth).regret == 0
    assert quality(np.full((1, 60), np.nan), truth).spearman[0] == 0


def test_the_cache_prefers_longer_curves_and_ignores_an_incomplete_line(tmp_path: Path) -> None:
    file = tmp_path / "source.jsonl"
    for steps in (2, 1):
        looks = {str(steps): [0.5, 1.0, 0.1]}
        append_line(file, {"cell": "a", "seed": 0, "losses": [2.0] * steps, "looks": looks})
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps({"cell": "b"})[:-1])
    curves = Cache(tmp_path).curves("source")
    assert list(curves) == [("a", 0)]
    assert curves["a", 0].looks == {2: (0.5, 1.0, 0.1)}


def test_a_search_by_rank_trains_the_highest_first(ground: Ground) -> None:
    assert ground.prior is not None
    trained = list(by_rank(ground, 5, 0))
    assert min(ground.prior[trained]) >= np.sort(ground.prior)[-5]
    assert list(by_rank_then_guided(ground, 24, 0))[:5] == trained
