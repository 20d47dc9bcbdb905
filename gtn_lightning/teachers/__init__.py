"""Teachers: what makes the training data."""

from gtn_lightning.teachers.base import SyntheticBatch, Teacher, TeacherInput
from gtn_lightning.teachers.generator import Generator
from gtn_lightning.teachers.pixels import Pixels
from gtn_lightning.teachers.real import RealData

__all__ = ["Generator", "Pixels", "RealData", "SyntheticBatch", "Teacher", "TeacherInput"]
