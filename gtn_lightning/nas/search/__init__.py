"""The search: candidates that workers share, and full training of the best. It needs Optuna."""

from gtn_lightning.nas.search.candidates import Candidate, Candidates
from gtn_lightning.nas.search.leaderboard import TrainedGroup
from gtn_lightning.nas.search.search import Search, SearchResult
from gtn_lightning.nas.search.storage import open_storage

__all__ = ["Candidate", "Candidates", "Search", "SearchResult", "TrainedGroup", "open_storage"]
