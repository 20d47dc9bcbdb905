"""Free tensors for fields of any kind."""

import pytest
import torch

from gtn_lightning.curricula import Full
from gtn_lightning.errors import RecipeError
from gtn_lightning.fields import Field
from gtn_lightning.teachers import FreeTensors, TeacherInput

CPU = torch.device("cpu")
ROWS = {"inputs": Field("real", (5,)), "targets": Field("classes", classes=3)}
NUMBERS = {"inputs": Field("real", (5,)), "targets": Field("real", (2,))}
ACTIONS = {"states": Field("real", (4,)), "actions": Field("probabilities", classes=2)}


def requests(classes: int | None) -> list[TeacherInput]:
    return Full(2, 6, classes).requests(torch.Generator(), CPU)


def test_real_fields_are_learned_and_classes_are_those_asked_for() -> None:
    teacher = FreeTensors(ROWS, 12)
    batches = list(teacher.batches(requests(3)))
    assert list(dict(teacher.named_parameters())) == ["free_inputs"]
    assert torch.equal(batches[1]["inputs"], teacher.tensors["inputs"][6:])
    assert batches[0]["targets"].tolist() == [0, 1, 2, 0, 1, 2]


def test_without_a_curriculums_classes_sample_i_is_of_class_i_modulo_their_number() -> None:
    (batch,) = FreeTensors(ROWS, 12).batches([TeacherInput(torch.tensor([4, 11]), None, None)])
    assert batch["targets"].tolist() == batch["labels"].tolist() == [1, 2]


def test_numbers_to_predict_are_learned_too() -> None:
    teacher = FreeTensors(NUMBERS, 12)
    first, second = teacher.batches(requests(None))
    assert set(first) == {"inputs", "targets"}
    second["targets"].sum().backward()
    gradient = teacher.tensors["targets"].grad
    assert gradient is not None
    assert gradient.any(dim=1).tolist() == [False] * 6 + [True] * 6


def test_probabilities_begin_near_a_class_of_their_own_and_sum_to_one() -> None:
    teacher = FreeTensors(ACTIONS, 12)
    (batch,) = teacher.batches([TeacherInput(torch.arange(4), None, None)])
    torch.testing.assert_close(batch["actions"].sum(dim=1), torch.ones(4))
    assert batch["actions"].argmax(dim=1).tolist() == [0, 1, 0, 1]
    assert batch["actions"].requires_grad


def test_soft_labels_are_a_field_of_probabilities() -> None:
    assert FreeTensors(ROWS, 12, soft_labels=True).fields["targets"] == Field("probabilities", classes=3)
    assert FreeTensors(ROWS, 12).fields == ROWS


@pytest.mark.parametrize("name", ["values", "items", "get"])
def test_fields_may_be_called_like_methods_of_a_dictionary(name: str) -> None:
    (batch,) = FreeTensors({name: Field("real", (2,))}, 4).batches([TeacherInput(torch.arange(2), None, None)])
    assert batch[name].shape == (2, 2)


def test_one_batch_is_what_the_whole_loop_has() -> None:
    teacher = FreeTensors(ROWS, 12, soft_labels=True)
    for batch, request in zip(teacher.batches(requests(3)), requests(3), strict=True):
        alone = teacher(request)
        assert all(torch.equal(batch[name], alone[name]) for name in ("inputs", "targets", "labels"))


def test_real_data_to_begin_with_keeps_inputs_and_targets_together() -> None:
    inputs = torch.arange(35.0).view(7, 5)
    real = {"inputs": inputs, "targets": inputs[:, :2] / 5}
    teacher = FreeTensors(NUMBERS, 12, init="real")
    teacher.attach(real)
    made = {name: tensor.detach() for name, tensor in teacher.tensors.items()}
    assert torch.equal(made["targets"], made["inputs"][:, :2] / 5)
    assert torch.equal(made["inputs"][7:], inputs[:5]), "once more from the first"
    teacher.attach({name: -tensor for name, tensor in real.items()})
    assert torch.equal(teacher.tensors["inputs"].detach(), made["inputs"]), "once"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 12}, "FreeTensors.fields must be given"),
        ({"fields": ROWS}, "FreeTensors.samples must be given"),
        ({"fields": {}, "samples": 12}, "fields must name at least one field, got none"),
        ({"fields": ROWS, "samples": 2}, "samples must be at least 3, the number of classes, got 2"),
        ({"fields": NUMBERS, "samples": 0}, "samples must be at least 1, got 0"),
        ({"fields": {"inputs": Field("real")}, "samples": 2}, "the shape of a real field must be given here"),
        ({"fields": {"labels": ROWS["targets"]}, "samples": 12}, "expected names such as inputs, other than labels"),
        ({"fields": {"a.b": ROWS["inputs"]}, "samples": 12}, "expected names such as inputs, .*got 'a.b'"),
        (
            {"fields": ROWS | {"more": Field("classes", classes=2)}, "samples": 12},
            "in one field at most",
        ),
        ({"fields": NUMBERS, "samples": 12, "soft_labels": True}, "soft_labels needs a field of classes"),
        ({"fields": ROWS, "samples": 12, "init": "ones"}, "init must be noise or real, got .ones."),
    ],
)
def test_error_messages(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        FreeTensors(**arguments)  # type: ignore[arg-type]


def test_the_spread_of_the_initial_noise() -> None:
    torch.manual_seed(0)
    made = FreeTensors(NUMBERS, 2000, spread={"targets": 0.1})
    assert float(made.tensors["targets"].detach().std()) == pytest.approx(0.1, rel=0.05)
    assert float(made.tensors["inputs"].detach().std()) == pytest.approx(1, rel=0.05)
    for spread, message in (
        ({"labels": 1.0}, "must name real fields, inputs, targets"),
        ({"inputs": -1.0}, "at least 0"),
    ):
        with pytest.raises(RecipeError, match=message):
            FreeTensors(NUMBERS, 4, spread=spread)
