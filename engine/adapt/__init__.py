"""Adaptation to one's own noise, from noisy shots alone: examines them, trains, and judges the result."""

from engine.adapt.adaptation import AdaptProgress, adapt
from engine.adapt.examine import Examination, examine
from engine.adapt.result import Adaptation
from engine.adapt.table import render

__all__ = ["AdaptProgress", "Adaptation", "Examination", "adapt", "examine", "render"]
