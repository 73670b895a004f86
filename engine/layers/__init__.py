"""The layers: forward and, right under it, the backward that undoes it, on plain tensors (N, H, W, C)."""

from engine.layers.activation import ReLU, Sigmoid
from engine.layers.compose import Compute, Layer, Residual, Sequential, Slot, slots
from engine.layers.conv import Conv2d, ConvTranspose2d, Upsampling, forget_prepared
from engine.layers.loss import MSE
from engine.layers.rearrange import DepthToSpace, SpaceToDepth
from engine.layers.window import Window, col2im, im2col

__all__ = [
    "MSE",
    "Compute",
    "Conv2d",
    "ConvTranspose2d",
    "DepthToSpace",
    "Layer",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Slot",
    "SpaceToDepth",
    "Upsampling",
    "Window",
    "col2im",
    "forget_prepared",
    "im2col",
    "slots",
]
