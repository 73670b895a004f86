"""Weights files: safetensors with metadata, saved atomically, checked when loaded."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from engine.layers import Module, parameters
from engine.models.networks import NetworkConfig, build_network, config_from_dict, config_to_dict
from engine.models.precision import name_of
from engine.system.atomic_file import write_atomically
from engine.system.os_errors import reason

FORMAT = "denoise-1"
SUFFIX = ".safetensors"
# The environment variable that names a folder of one's own weights. The service serves that folder.
FOLDER_VARIABLE = "DENOISE_WEIGHTS"
# In bytes. The largest shipped file has 15 million; a file far larger is a mistake, and could fill the memory.
MAX_FILE_SIZE = 2**30
# Types of the values in a file. A loaded network always holds them in float32.
FULL = torch.float32
# A file begins with the length of its header.
_LENGTH_BYTES = 8
HALF = torch.float16
DISK_TYPES = {FULL: "float32", HALF: "float16"}


class WeightsError(ValueError):
    """A weights file that cannot be used. The message names the file and the reason."""


@dataclass(frozen=True)
class Model:
    """A network with its trained weights.

    digest: SHA-256 of the file, the model's identity.
    precision: the type that products run in, "float32" or "bfloat16".
    """

    name: str
    config: NetworkConfig
    net: Module
    digest: str
    precision: str
    metadata: dict[str, str]
    path: Path


@dataclass(frozen=True)
class WeightsFile:
    """A weights file that was read and fits its network. `build` makes the network, which takes longer.

    digest: SHA-256 of the file. tensors: by name, in the file's type.
    """

    path: Path
    config: NetworkConfig
    metadata: dict[str, str]
    digest: str
    tensors: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.path.stem

    @property
    def parameter_count(self) -> int:
        """Number of trainable values."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def build(self, device: torch.device | str = "cpu", compute: torch.dtype = torch.float32) -> Model:
        """The model. compute: the type that products run in."""
        net = build_network(self.config, compute=compute)
        for parameter in parameters(net):
            parameter.layer.params[parameter.key] = self.tensors[parameter.name].to(device, torch.float32)
        return Model(self.name, self.config, net, self.digest, name_of(compute), self.metadata, self.path)


def weights_folder() -> Path:
    """The folder of the weights that the package ships."""
    import weights

    return Path(weights.__path__[0])


def own_folder() -> Path | None:
    """The folder of one's own weights, which the environment names; None without one."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder) if folder else None


def known_files() -> dict[str, Path]:
    """The shipped weights and those in one's own folder, by name. Of equal names, the shipped ones."""
    own = own_folder()
    files = {file.stem: file for file in sorted(own.glob(f"*{SUFFIX}"))} if own else {}
    return {**files, **{file.stem: file for file in sorted(weights_folder().glob(f"*{SUFFIX}"))}}


def find(name: str) -> Path:
    """The file of the weights of that name, shipped or in one's own folder. A name that ends in .safetensors is
    taken as a path.

    Raises ValueError naming the known weights if there are none of that name.
    """
    if name.endswith(SUFFIX):
        return Path(name)
    files = known_files()
    if name not in files:
        likely = [each for each in files if name.startswith(each)] or get_close_matches(name, files, 1)
        near = f" Did you mean {likely[0]}?" if likely else ""
        own, known = own_folder(), ", ".join(files) or "none"
        where = f"Shipped weights and those in {own}" if own else "Shipped weights"
        raise ValueError(f"No weights are named {name!r}.{near} {where}: {known}. Or give a {SUFFIX} file.")
    return files[name]


def save(
    path: Path,
    net: Module,
    config: NetworkConfig,
    metadata: Mapping[str, str],
    dtype: torch.dtype = FULL,
) -> None:
    """Write the parameters in float32 or float16, with the config and the metadata.

    Equal parameters and metadata make equal files. Raises ValueError naming the parameters that float16 cannot
    hold.
    """
    tensors = {parameter.name: parameter.value.to("cpu", dtype).contiguous() for parameter in parameters(net)}
    large = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if large and dtype == HALF:
        raise ValueError(f"{path}: float16 cannot hold the values of {', '.join(large)}; save as float32")
    network = json.dumps(config_to_dict(config))
    about = {**metadata, "format": FORMAT, "network": network, "dtype": DISK_TYPES[dtype]}
    write_atomically(path, _in_order(safetensors.torch.save(tensors, about)))


def rounded(net: Module, config: NetworkConfig, dtype: torch.dtype) -> Module:
    """The network as a file that stores its values in `dtype` would load; products in float32."""
    copy = build_network(config)
    for ours, theirs in zip(parameters(copy), parameters(net), strict=True):
        ours.layer.params[ours.key] = theirs.value.to(dtype).float()
    return copy


def load(path: Path, device: torch.device | str = "cpu", compute: torch.dtype = torch.float32) -> Model:
    """Read a weights file and build its network. compute: the type that products run in.

    Raises WeightsError as `read` does.
    """
    return read(path).build(device, compute)


def read(path: Path) -> WeightsFile:
    """Read a weights file.

    Raises WeightsError naming the file, and each tensor that is missing, unexpected, misshapen or not finite.
    """
    try:
        if (size := path.stat().st_size) > MAX_FILE_SIZE:
            raise ValueError(f"the file has {size} bytes; the limit is {MAX_FILE_SIZE}")
        # Read once, so digest, metadata and tensors are of the same bytes even if the file is replaced meanwhile.
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
        metadata = _metadata(data)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format {metadata.get('format')!r}; this version reads {FORMAT!r}")
        config = config_from_dict(json.loads(metadata.get("network", "null")) or {})
    except OSError as error:
        raise WeightsError(f"{path}: cannot load weights: {reason(error)}") from error
    except (SafetensorError, ValueError, TypeError) as error:
        raise WeightsError(f"{path}: cannot load weights: {error}") from error
    if faults := _faults(config, tensors):
        raise WeightsError(f"{path}: {'; '.join(sorted(faults))}")
    return WeightsFile(path, config, metadata, hashlib.sha256(data).hexdigest(), tensors)


def read_metadata(path: Path) -> dict[str, str]:
    """A weights file's metadata; empty if the file has another format. Raises OSError."""
    try:
        with path.open("rb") as file:
            head = file.read(_LENGTH_BYTES)
            metadata = _metadata(head + file.read(min(_header_length(head), MAX_FILE_SIZE)))
    except (ValueError, AttributeError, MemoryError):
        return {}
    return metadata if metadata.get("format") == FORMAT else {}


def _in_order(data: bytes) -> bytes:
    """The same safetensors file with sorted keys in its header: the library writes metadata in random order.

    A file has the header's length in eight bytes, the header as JSON, and the values, which start at a multiple
    of eight. Spaces fill up the header. Source: "Format" in the README of safetensors.
    """
    start = _LENGTH_BYTES + _header_length(data)
    header = json.dumps(json.loads(data[_LENGTH_BYTES:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[start:]


def _header_length(data: bytes) -> int:
    return int.from_bytes(data[:_LENGTH_BYTES], "little")


def _metadata(data: bytes) -> dict[str, str]:
    """The `__metadata__` of a safetensors file's header."""
    header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + _header_length(data)])
    return dict(header.get("__metadata__", {}))


def _faults(config: NetworkConfig, tensors: Mapping[str, Tensor]) -> list[str]:
    """What keeps the tensors from being the network's."""
    expected = _expected_shapes(config)
    faults = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    faults += [f"{name} is unexpected" for name in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        shape = tuple(tensors[name].shape)
        if shape != expected[name]:
            faults.append(f"{name} has shape {shape} instead of {expected[name]}")
        elif not tensors[name].is_floating_point() or not tensors[name].isfinite().all():
            faults.append(f"{name} has values that are not finite numbers")
    return faults


@lru_cache(maxsize=8)
def _expected_shapes(config: NetworkConfig) -> Mapping[str, tuple[int, ...]]:
    """The shape of each parameter, by name. Kept, because a network has to be built to find out."""
    return {parameter.name: tuple(parameter.value.shape) for parameter in parameters(build_network(config))}
