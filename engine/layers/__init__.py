"""The layers: forward and, right under it, its backward pass, on plain tensors (N, H, W, C)."""

from engine.layers.activation import ReLU, Sigmoid
from engine.layers.arena import Arena, some_arena
from engine.layers.compiled import multiply
from engine.layers.containers import (
    Compute,
    Layer,
    PixelResidual,
    Rectified,
    ResBlock,
    Sequential,
    Skip,
    Slot,
    slots,
)
from engine.layers.conv import Conv2d, ConvTranspose2d, Upsampling, forget_packed
from engine.layers.loss import MSE
from engine.layers.pixel_shuffle import DepthToSpace, SpaceToDepth
from engine.layers.unfold import Window, col2im, im2col

__all__ = [
    "MSE",
    "Arena",
    "Compute",
    "Conv2d",
    "ConvTranspose2d",
    "DepthToSpace",
    "Layer",
    "PixelResidual",
    "ReLU",
    "Rectified",
    "ResBlock",
    "Sequential",
    "Sigmoid",
    "Skip",
    "Slot",
    "SpaceToDepth",
    "Upsampling",
    "Window",
    "col2im",
    "forget_packed",
    "im2col",
    "multiply",
    "slots",
    "some_arena",
]
