"""The recipe that ``gtn distil`` chooses for one's own data: learners, samples, steps, rates.

Learners are what people write: the usual order of layers, others, with and without norms, of several depths and widths,
a residual network, multilayer perceptrons, a linear network. The inner optimizer is `LARS`, at whose rate all of them
learn. The samples begin as copies of real ones, and soft labels are learned (docs/results/written.md).
"""

from typing import Any

from gtn_lightning.distilled.facts import Facts
from gtn_lightning.errors import RecipeError

STEPS = 12
"""Inner steps, if the number of samples allows it."""

BATCH = 32
"""Samples per inner step, about: equally many of every class."""

USUAL = ("norm", "activation", "pool")
"""The order of layers after a convolution that most people write."""


def plan(facts: Facts, meta_steps: int, per_class: int | None = None, accelerator: str = "auto") -> dict[str, Any]:
    """Return a recipe for ``gtn fit``.

    Args:
        facts: the data.
        meta_steps: number of meta-steps.
        per_class: number of learned samples of each class, or, without classes, in all; None to choose.
        accelerator: Lightning's accelerator.

    Raises:
        RecipeError: if there are fewer real samples than learned ones.
    """
    steps, batch, pool = sizes(facts, per_class)
    if pool > facts.train:
        classes = facts.outputs if facts.predicts == "classes" else 1
        raise RecipeError(
            f"--images-per-class must be at most {facts.train // classes}, since the data has "
            f"{facts.train} samples to train on, got {per_class}"
        )
    classified = facts.predicts == "classes"
    teacher = "Pixels" if facts.kind == "images" and classified else "FreeTensors"
    curriculum: dict[str, Any] = {"class_path": "Full", "init_args": {"batch_size": batch}}
    if pool < steps * batch:
        curriculum = {"class_path": "ShuffledPasses", "init_args": {"batch_size": batch, "images": pool}}
    task: dict[str, Any] = {"class_path": "Classification", "init_args": {"classes": facts.outputs}}
    if not classified:
        task = {"class_path": "Regression", "init_args": {"outputs": facts.outputs}}
    task["init_args"]["shape"] = list(facts.shape)
    return {
        "seed_everything": facts.data["init_args"].get("seed", 0),
        "model": {
            "seed": "${..seed_everything}",
            "inner_loop": {"steps": steps, "mode": "remat"},
            "teacher": {"class_path": teacher, "init_args": {"init": "real", "soft_labels": classified}},
            "curriculum": curriculum,
            "learners": {"class_path": "Mixture", "init_args": {"learners": families(facts)}},
            "inner_optimizer": {
                "class_path": "LARS",
                "init_args": {"lr": 0.1, "momentum": 0.7, "learned_per_step": ["lr"]},
            },
            "task": task,
            "outer_optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.03}},
            "outer_lr_scheduler": {
                "class_path": "torch.optim.lr_scheduler.CosineAnnealingLR",
                "init_args": {"T_max": "${....trainer.max_steps}", "eta_min": 0.003},
            },
            # Networks for rows are cheap, and few rows make scores noisy.
            "evaluation": {"learners": 20 if facts.kind == "rows" else 6},
        },
        "data": facts.data,
        "trainer": {
            "max_steps": meta_steps,
            "val_check_interval": max(1, meta_steps // (10 if facts.kind == "rows" else 4)),
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": 0,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": 10,
            "enable_model_summary": False,
            "accelerator": accelerator,
            "devices": 1,
            "default_root_dir": "runs",
            "logger": [
                {
                    "class_path": "gtn_lightning.loggers.CSVLogger",
                    "init_args": {"save_dir": "${....default_root_dir}", "name": "", "version": ""},
                }
            ],
            "callbacks": [
                {"class_path": name}
                for name in ("TeacherCheckpoint", "SampleGrid", "LearningCurve", "SyntheticData", "RunSummary")
            ],
        },
    }


def sizes(facts: Facts, per_class: int | None) -> tuple[int, int, int]:
    """Return the number of inner steps, of samples per step, and of different samples.

    Every batch has equally many samples of every class. Few samples are gone through several times.

    Raises:
        RecipeError: if the number per class is below 1.
    """
    classes = facts.outputs if facts.predicts == "classes" else 1
    if per_class is not None and per_class < 1:
        raise RecipeError(f"--images-per-class must be at least 1, got {per_class}")
    if per_class is None:
        most = facts.train // 3  # more would hardly be a small set
        batch = classes * max(1, round(min(BATCH, most // STEPS) / classes))
        steps = min(STEPS, max(1, most // batch))
        return steps, batch, steps * batch
    if per_class < STEPS // 2:
        return STEPS, per_class * classes, per_class * classes
    # As near to STEPS steps as divides the samples into equal batches.
    step_counts = [number for number in range(1, per_class + 1) if per_class % number == 0]
    steps = min(step_counts, key=lambda number: (abs(number - STEPS), -number))
    return steps, per_class // steps * classes, per_class * classes


def families(facts: Facts) -> dict[str, Any]:
    """Return the families of the mixture by name, as a recipe writes them."""

    def mlp(*hidden: int, **more: Any) -> dict[str, Any]:
        return {"class_path": "MLP", "init_args": {"hidden": list(hidden), "init": "torch", **more}}

    def conv(width: int, depth: int, norm: str, **more: Any) -> dict[str, Any]:
        arguments = {"width": width, "depth": depth, "norm": norm, "order": list(USUAL), "init": "torch", **more}
        return {"class_path": "ConvNet", "init_args": arguments}

    plain = {
        "mlp": mlp(128),
        "mlp_deep": mlp(128, 64),
        "mlp_norm": mlp(128, norm="batch_running"),
        "linear": mlp(),
    }
    if facts.kind == "rows":
        return {**plain, "mlp_narrow": mlp(32), "mlp_gelu": mlp(64, activation="gelu")}
    # Blocks that halve the image to about 4 pixels.
    side = min(facts.shape[1:])
    depth = max(1, min(3, (side // 4).bit_length() - 1))
    convolutions = {
        "usual": conv(32, depth, "batch_running"),
        "usual_wide": conv(64 if side < 16 else 48, depth, "batch"),
        "usual_global": conv(32, min(depth + 1, side.bit_length() - 1), "batch", pooling="global"),
        "pool_first": {"class_path": "ConvNet", "init_args": {"width": 32, "depth": depth, "norm": "batch"}},
        "plain": conv(32, depth, "none"),
        "residual": {"class_path": "ResNet", "init_args": {"width": 16, "blocks": [1] * min(2, depth + 1)}},
    }
    if side >> (depth + 1):
        convolutions |= {"usual_deep": conv(16, depth + 1, "batch"), "plain_deep": conv(16, depth + 1, "none")}
    return {**convolutions, **plain}
