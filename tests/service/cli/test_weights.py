"""Weights of the commands."""

import torch

from engine.models import precision
from service.cli.weights import load_model


def test_auto_precision_is_resolved_once_for_all_networks(monkeypatch):
    resolved = []
    monkeypatch.setattr(precision, "_measured_once", lambda device: resolved.append(device) or torch.float32)

    model = load_model("auto", "cpu", "auto")

    assert len(model.nets) == 3
    assert len(resolved) == 1
    assert model.precision == "float32"
