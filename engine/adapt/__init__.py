"""Adaptation to one's own noise, from noisy shots alone: looks at what is there. Training comes later."""

from engine.adapt.examine import Examination, examine
from engine.adapt.table import render

__all__ = ["Examination", "examine", "render"]
