"""Lightning callbacks: what is kept, drawn and printed while a teacher is meta-trained."""

from gtn_lightning.callbacks.checkpoint import TeacherCheckpoint
from gtn_lightning.callbacks.curve import LearningCurve
from gtn_lightning.callbacks.episode import EpisodeAnimation
from gtn_lightning.callbacks.gradient_norm import GradientNorm
from gtn_lightning.callbacks.metasmoothness import Metasmoothness
from gtn_lightning.callbacks.nas_proxy import NASProxy
from gtn_lightning.callbacks.poles import PolePicture
from gtn_lightning.callbacks.progress import MetaProgressBar
from gtn_lightning.callbacks.reconstructions import Reconstructions
from gtn_lightning.callbacks.samples import SampleGrid
from gtn_lightning.callbacks.summary import RunSummary
from gtn_lightning.callbacks.synthetic_data import SyntheticData

__all__ = [
    "EpisodeAnimation",
    "GradientNorm",
    "LearningCurve",
    "MetaProgressBar",
    "Metasmoothness",
    "NASProxy",
    "PolePicture",
    "Reconstructions",
    "RunSummary",
    "SampleGrid",
    "SyntheticData",
    "TeacherCheckpoint",
]
