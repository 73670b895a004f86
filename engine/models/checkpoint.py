"""Weights on disk: safetensors with metadata, saved atomically, loaded strictly."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from engine.layers import Layer, parameters
from engine.models.networks import NetworkConfig, build_network, config_from_dict, config_to_dict
from engine.models.precision import name_of
from engine.system.atomic_file import write_atomically

FORMAT = "denoise-1"
SUFFIX = ".safetensors"
# In bytes; photo-gaussian has 13 million. A file far larger is none of ours, and might fill the memory.
LARGEST = 2**30
# What the numbers of a file may be kept in; a loaded network always has them in float32.
FULL, HALF = torch.float32, torch.float16
DISK_TYPES = {FULL: "float32", HALF: "float16"}


class WeightsError(ValueError):
    """A weights file that cannot be used; says which file and why."""


@dataclass(frozen=True)
class Model:
    """A network with its trained weights. digest: SHA-256 of the file, which is the model's identity.

    precision: the type that products run in, "float32" or "bfloat16".
    """

    name: str
    spec: NetworkConfig
    net: Layer
    digest: str
    precision: str
    metadata: dict[str, str]
    path: Path


def weights_folder() -> Path:
    """Where the weights shipped with the installation are."""
    import weights

    return Path(weights.__path__[0])


def save(
    path: Path,
    net: Layer,
    spec: NetworkConfig,
    metadata: Mapping[str, str],
    dtype: torch.dtype = FULL,
) -> None:
    """Write the network's parameters in float32 or float16, the spec and what else should be known of them.

    Equal parameters and metadata make equal files. Raises ValueError naming a parameter too large for float16.
    """
    tensors = {parameter.name: parameter.value.to("cpu", dtype).contiguous() for parameter in parameters(net)}
    large = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if large and dtype == HALF:
        raise ValueError(f"{path}: float16 cannot hold what is in {', '.join(large)}")
    network = json.dumps(config_to_dict(spec))
    about = {**metadata, "format": FORMAT, "network": network, "dtype": DISK_TYPES[dtype]}
    write_atomically(path, _in_order(safetensors.torch.save(tensors, about)))


def rounded(net: Layer, spec: NetworkConfig, dtype: torch.dtype) -> Layer:
    """The network as it is loaded from a file that keeps its numbers in that type; products in float32."""
    copy = build_network(spec)
    for ours, theirs in zip(parameters(copy), parameters(net), strict=True):
        ours.layer.params[ours.key] = theirs.value.to(dtype).float()
    return copy


def load(path: Path, device: torch.device | str = "cpu", compute: torch.dtype = torch.float32) -> Model:
    """Read a weights file. compute: the type that products run in.

    Raises WeightsError naming the file and each tensor that is missing, unexpected, misshapen or not finite,
    or what else does not fit.
    """
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise ValueError(f"{size} bytes; at most {LARGEST} are read")
        # Read once: whatever becomes of the file meanwhile, digest, metadata and tensors are of the same bytes.
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
        metadata = _metadata(data)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format {metadata.get('format')!r}; this version reads {FORMAT!r}")
        spec = config_from_dict(json.loads(metadata.get("network", "null")) or {})
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise WeightsError(f"{path}: not weights of ours: {error}") from error
    net = build_network(spec, compute=compute)
    _fill(path, net, tensors, torch.device(device))
    return Model(path.stem, spec, net, hashlib.sha256(data).hexdigest(), name_of(compute), metadata, path)


def read_metadata(path: Path) -> dict[str, str]:
    """What a weights file says of itself; nothing if it is none of ours."""
    try:
        metadata = _metadata(path.read_bytes())
    except (ValueError, AttributeError):
        return {}
    return metadata if metadata.get("format") == FORMAT else {}


def _in_order(data: bytes) -> bytes:
    """The same safetensors file with its header's keys sorted: the library writes metadata in a random order.

    The header is JSON between its length, eight bytes, and the numbers, which begin at a multiple of eight: so it
    is filled up with spaces. Source: "Format" in the README of safetensors.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[start:]


def _metadata(data: bytes) -> dict[str, str]:
    """The `__metadata__` of a safetensors file: eight bytes of length, then a JSON header."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header.get("__metadata__", {}))


def _fill(path: Path, net: Layer, tensors: dict[str, Tensor], device: torch.device) -> None:
    wanted = {parameter.name: parameter for parameter in parameters(net)}
    faults = [f"{name} is missing" for name in wanted.keys() - tensors.keys()]
    faults += [f"{name} is unexpected" for name in tensors.keys() - wanted.keys()]
    for name in wanted.keys() & tensors.keys():
        shape, expected = tuple(tensors[name].shape), tuple(wanted[name].value.shape)
        if shape != expected:
            faults.append(f"{name} has shape {shape} instead of {expected}")
        elif not tensors[name].is_floating_point() or not tensors[name].isfinite().all():
            faults.append(f"{name} holds what is no finite number")
    if faults:
        raise WeightsError(f"{path}: {'; '.join(sorted(faults))}")
    for name, parameter in wanted.items():
        parameter.layer.params[parameter.key] = tensors[name].to(device, torch.float32)
