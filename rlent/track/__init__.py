"""Where a run's numbers go: files in the run folder, the terminal, and Weights & Biases."""

from rlent.track.console import Console
from rlent.track.record import JsonlRecord, read_rows
from rlent.track.tracker import Tracker
from rlent.track.wandb_run import Wandb, upload

__all__ = ["Console", "JsonlRecord", "Tracker", "Wandb", "read_rows", "upload"]
