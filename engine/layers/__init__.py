"""Layers on plain tensors (N, H, W, C): each forward pass has its backward pass right below it."""

from engine.layers.activation import ReLU, Sigmoid
from engine.layers.arena import Arena, ensure_arena
from engine.layers.compiled import multiply
from engine.layers.containers import (
    CastTo,
    ConvStack,
    PixelResidual,
    ResBlock,
    Sequential,
    Skip,
)
from engine.layers.conv import Conv2d, ConvTranspose2d, Upsampling, drop_packed_weights
from engine.layers.loss import MSE
from engine.layers.module import Module, Parameter, parameters
from engine.layers.pixel_shuffle import DepthToSpace, SpaceToDepth
from engine.layers.subpixel_shift import SubpixelShift
from engine.layers.unfold import ConvGeometry, col2im, im2col

__all__ = [
    "MSE",
    "Arena",
    "CastTo",
    "Conv2d",
    "ConvGeometry",
    "ConvStack",
    "ConvTranspose2d",
    "DepthToSpace",
    "Module",
    "Parameter",
    "PixelResidual",
    "ReLU",
    "ResBlock",
    "Sequential",
    "Sigmoid",
    "Skip",
    "SpaceToDepth",
    "SubpixelShift",
    "Upsampling",
    "col2im",
    "drop_packed_weights",
    "ensure_arena",
    "im2col",
    "multiply",
    "parameters",
]
