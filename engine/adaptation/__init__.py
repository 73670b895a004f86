"""Adaptation to one's own noise, from noisy shots alone: examines them, trains, and judges the result."""

from engine.adaptation.examine import Examination, examine
from engine.adaptation.result import Adaptation
from engine.adaptation.run import AdaptProgress, adapt
from engine.adaptation.table import render

__all__ = ["AdaptProgress", "Adaptation", "Examination", "adapt", "examine", "render"]
