"""Estimation of the noise in an image, from that image alone."""

from engine.inference.noise_estimation.config import EstimatorConfig
from engine.inference.noise_estimation.estimate import (
    Component,
    NoiseEstimate,
    NoiseKind,
    NoiseLevel,
    is_doubtful,
    may_be_clean,
    noise_kind,
    overall_sigma,
)
from engine.inference.noise_estimation.estimator import estimate_noise
from engine.inference.noise_estimation.words import sentence, summary

__all__ = [
    "Component",
    "EstimatorConfig",
    "NoiseEstimate",
    "NoiseKind",
    "NoiseLevel",
    "estimate_noise",
    "is_doubtful",
    "may_be_clean",
    "noise_kind",
    "overall_sigma",
    "sentence",
    "summary",
]
