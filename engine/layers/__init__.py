"""The layers: forward and, right under it, its backward pass, on plain tensors (N, H, W, C)."""

from engine.layers.activation import ReLU, Sigmoid
from engine.layers.arena import Arena, ensure_arena
from engine.layers.compiled import multiply
from engine.layers.containers import (
    CastTo,
    ConvStack,
    Module,
    Parameter,
    PixelResidual,
    ResBlock,
    Sequential,
    Skip,
    parameters,
)
from engine.layers.conv import Conv2d, ConvTranspose2d, Upsampling, drop_packed_weights
from engine.layers.loss import MSE
from engine.layers.pixel_shuffle import DepthToSpace, SpaceToDepth
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
    "Upsampling",
    "col2im",
    "drop_packed_weights",
    "ensure_arena",
    "im2col",
    "multiply",
    "parameters",
]
