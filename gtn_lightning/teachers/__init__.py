"""Teachers: the models that make the training data."""

from gtn_lightning.teachers.augmented import Augmented
from gtn_lightning.teachers.base import Teacher, TeacherInput
from gtn_lightning.teachers.environment import SyntheticEnvironment
from gtn_lightning.teachers.free import FreeTensors, Pixels
from gtn_lightning.teachers.generator import Generator
from gtn_lightning.teachers.real import RealData

__all__ = [
    "Augmented",
    "FreeTensors",
    "Generator",
    "Pixels",
    "RealData",
    "SyntheticEnvironment",
    "Teacher",
    "TeacherInput",
]
