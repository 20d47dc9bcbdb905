"""The parts of benchmarks.nasbench201 that need neither the table nor CIFAR-10."""

import csv
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.nasbench201 import page, told
from benchmarks.nasbench201.bench import FULL, Bench, Reduction
from benchmarks.nasbench201.costs import Meta, Speed, training_operations
from benchmarks.nasbench201.curves import LOOKS, Cache, append_line
from benchmarks.nasbench201.rankings import together_table
from benchmarks.nasbench201.search_runs import Found, Plan
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
from benchmarks.nasbench201.steps import equal_table, noise_table
from benchmarks.nasbench201.study import Study, quality, spearman
from benchmarks.nasbench201.teachers import clock, write_known
from gtn_lightning.nas.proxies.flops import forward_flops
from gtn_lightning.nas.spaces import Architecture, NASBench201
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


class Made:
    """A table and measurements whose noise is known: a score after n steps is the accuracy with noise of 3 / n."""

    def __init__(self, folder: Path) -> None:
        drawn = random.Random(0)
        space = NASBench201((3, 32, 32), 10)
        options = list(space.decisions.items())
        self.true: dict[str, float] = {}
        self.folder = folder
        for _ in range(1200):
            cell = space.architecture({key: drawn.choice(list(values)) for key, values in options})
            self.true.setdefault(cell.name, self.worth(space.encode(space.parse(space.canonical(cell)))))
        self.table = folder / "table.csv"
        with self.table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["arch", "cifar10_test_200ep", "cifar10_val_12ep"])
            for name, value in self.true.items():
                writer.writerow([name, value + 0.1 * drawn.random(), value + drawn.random()])
        self.bench = Bench(str(self.table), "nowhere")
        self.cache = Cache(folder / "curves")
        for cell in [*self.bench.reported, *self.bench.known]:
            for name, count in (("parameters", 1), ("synflow", 1), ("naswot", 1), ("AZ-NAS", 4)):
                values = [self.true[cell.name] + 5 * drawn.gauss(0, 1) for _ in range(count)]
                row = {"proxy": name, "cell": cell.name, "values": values, "seconds": 0.5}
                append_line(folder / "curves" / "untrained.jsonl", row)
        self.reported = self.bench.reported[:60]
        for seed in (0, 1):
            self.train("real", self.reported, seed, 128)
        self.train("real", self.bench.known[:64], 0, 128)
        self.train("long", self.reported[:45], 0, 1200)

    @staticmethod
    def worth(encoded: tuple[float, ...]) -> float:
        return 50 + 8 * encoded[2] + 3 * encoded[1]

    def train(self, source: str, cells: list[Architecture], seed: int, steps: int, ahead: int = 1) -> None:
        """Add curves; those of a teacher are ``ahead`` times as informative as those on real images."""
        for cell in cells:
            noise = random.Random(f"{seed} {cell.name}").gauss(0, 1)
            looks = [look for look in LOOKS if look <= steps]
            scores = {look: -self.true[cell.name] - 150 * noise / (look * ahead) for look in looks}
            losses = [scores[min(look for look in looks if look >= step)] for step in range(1, steps + 1)]
            row = {"losses": losses, "looks": {look: [0.5, score, 1.0 * look] for look, score in scores.items()}}
            append_line(self.folder / "curves" / f"{source}.jsonl", {"cell": cell.name, "seed": seed, **row})

    def study(
        self,
        plain: dict[str, str] | None = None,
        ranked: dict[str, str] | None = None,
        real: str = "real",
        count: int = 60,
    ) -> Study:
        cache = Cache(self.folder / "curves")
        return Study(self.bench, cache, Reduction(), real, "long", {}, plain or {}, ranked or {}, count)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = Made(tmp_path_factory.mktemp("nasbench201"))
    for seed in (0, 1):
        made.train("taught", made.reported, seed, 32, ahead=8)
    made.train("taught", made.bench.known[:64], 0, 32, ahead=8)
    return made


def test_halves_of_the_table_share_no_network(measured: Made) -> None:
    names = [{SPACE.canonical(cell) for cell in half} for half in (measured.bench.reported, measured.bench.known)]
    assert not names[0] & names[1]
    for name, twin in measured.bench.twins.items():
        assert twin.name != name
        assert SPACE.canonical(twin) == SPACE.canonical(SPACE.parse(name))
    best = measured.bench.accuracies(measured.bench.best_tenth)
    assert best.min() >= measured.bench.accuracies(measured.bench.reported).quantile(0.85)


def test_cells_are_reported_as_far_as_they_are_measured_in_their_random_order(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.train("gap", [*made.reported[:20], *made.bench.best_tenth], 0, 4)
    study = made.study(real="gap")
    assert study.reported[:20] == made.reported[:20]
    assert len(study.reported) < 25  # the best that were measured besides do not count


def test_too_few_cells_are_not_reported(tmp_path: Path) -> None:
    made = Made(tmp_path)
    with pytest.raises(SystemExit, match="ranked cells must be at least 40, got 30"):
        made.study(count=30).check()
    with pytest.raises(SystemExit, match="ranked cells must be at least 40, got 0"):
        made.study(real="not measured").check()


def test_the_mean_rank_of_several_learners_has_less_noise(measured: Made) -> None:
    study = measured.study()
    one, two = (study.scores("real", "validation loss", 16, learners=count) for count in (1, 2))
    assert (one.shape, two.shape) == ((2, 60), (1, 60))
    assert spearman(two, study.truth) > spearman(one, study.truth)
    assert study.scores("real", "validation loss", 16, learners=4).shape == (0, 60)


def test_as_many_real_steps_are_found_as_a_teacher_is_ahead(measured: Made) -> None:
    _, found = equal_table(measured.study({"teacher": "taught"}), {"teacher": 100.0})
    one = next(one for one in found if (one.score, one.steps) == ("validation loss", 16))
    assert (one.teacher, one.real[0]) == ("teacher", 128)
    assert one.real[1] <= 128 <= one.real[2]
    assert one.saved == pytest.approx(128 - 16)
    assert one.pays() == "1"


def test_the_share_of_the_seed_falls_with_its_noise(measured: Made) -> None:
    _, found = noise_table(measured.study({"teacher": "taught"}))
    real = [found["real images", "validation loss", step] for step in (16, 128)]
    assert real[0].share > 2 * real[1].share
    assert real[0].between < real[1].between
    assert found["teacher", "validation loss", 16].share == pytest.approx(real[1].share)
    assert real[0].alone < real[0].clean


def test_who_knows_accuracies_is_not_among_those_told_nothing(measured: Made) -> None:
    plain, _ = together_table(measured.study({"teacher": "taught"}))
    ranked, _ = together_table(measured.study(ranked={"ranking-aware": "taught"}))
    assert "on teacher" in plain
    assert "ranking-aware" not in ranked


def test_the_pages_are_made_of_measurements(
    measured: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("benchmarks.report", "benchmarks.nasbench201.page", "benchmarks.nasbench201.pictures"):
        monkeypatch.setattr(f"{module}.RESULTS", tmp_path)
    monkeypatch.setattr(told, "DRAWS", 1)
    monkeypatch.setattr(told, "CURVES", 80)
    for module in ("told", "rankings", "pictures"):
        monkeypatch.setattr(f"benchmarks.nasbench201.{module}.TOLD", (16, 64, 80))
    monkeypatch.setattr("benchmarks.nasbench201.study.RESAMPLES", 20)
    monkeypatch.setattr("benchmarks.nasbench201.steps.EQUAL_RESAMPLES", 5)
    study = measured.study({"teacher 1": "taught"})
    meta = Meta({"teacher 1": 100.0}, {"teacher 1": 7})
    page.write(study, {"Adam": "real"}, meta, tmp_path / "none.jsonl", Speed(1e9, 1e8), None)
    answers, tables = (tmp_path / f"{name}.md" for name in ("nas", "nas_tables"))
    assert "teacher 1: 32 steps as well as" in answers.read_text()
    assert "meta-training of teacher 1, 7 meta-steps" in tables.read_text()
    for name in re.findall(r"\((nas_\w+\.png)\)", answers.read_text()):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.glob("*.png"))) == 6
    for line in (answers.read_text() + tables.read_text()).splitlines():
        assert "nan" not in line.split(), line


def test_a_ranking_aware_teacher_is_told_64_accuracies(measured: Made, tmp_path: Path) -> None:
    with write_known(measured.bench, tmp_path / "known.csv", str(measured.table)).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["architecture"] for row in rows} == {cell.name for cell in measured.bench.known[:64]}
    assert all(0 < float(row["accuracy"]) < 1 for row in rows)


def test_operations_of_a_training_are_those_of_a_network_with_all_edges(measured: Made) -> None:
    space = measured.bench.space(FULL)
    full = space.parse(
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"
    )
    # The convolution of a dead edge is counted, as the benchmark computes it.
    dead = space.parse("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|nor_conv_1x1~1|none~2|")
    counted = training_operations(measured.bench, [full, dead])
    assert counted[0] == counted[1] == 3 * 12 * 25_000 * forward_flops(space.build(full), (3, 32, 32))


def test_a_search_is_kept_while_what_it_depends_on_is_the_same(ground: Ground) -> None:
    same, other = replace(ground), replace(ground, short=ground.short + 0.1)
    assert Plan(guided, ground, 8).digest() == Plan(guided, same, 8).digest() != Plan(guided, other, 8).digest()


def test_what_searches_found_is_said_in_trainings_and_hours() -> None:
    found = Found(np.array([[93.0, 94.0, 94.5], [93.0, 93.9, 94.5]]), np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]))
    assert found.words() == "2 trainings, 3.0 CPU hours"
    assert Found(found.accuracies - 5, found.hours).words() == "not in 3 trainings"


def test_a_time_limit_is_written_as_lightning_reads_it() -> None:
    assert clock(90061.5) == "01:01:01:01"
    assert clock(-3) == "00:00:00:01"


def test_a_search_by_rank_trains_the_highest_first(ground: Ground) -> None:
    assert ground.prior is not None
    trained = list(by_rank(ground, 5, 0))
    assert min(ground.prior[trained]) >= np.sort(ground.prior)[-5]
    assert list(by_rank_then_guided(ground, 24, 0))[:5] == trained
