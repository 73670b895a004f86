"""Training recipes: TOML files in `engine/training/recipes/`. A flag can override each of their values."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from engine.data.noise.camera import CameraNoise
from engine.data.noise.gaussian import GaussianNoise
from engine.data.noise.model import NoiseModel
from engine.data.noise.random_pixel import RandomPixelNoise
from engine.data.noise.stabilised import PartlyStabilised
from engine.models.autoencoder import AutoencoderConfig
from engine.models.networks import NetworkConfig
from engine.models.unet import UNetConfig

FOLDER = Path(__file__).parent / "recipes"
# The values that are the network's size.
SIZE_KEYS = ("hidden", "geometry", "channels", "blocks")


@dataclass(frozen=True)
class Recipe:
    """How to train. Raises ValueError naming a value that is out of range, and the range.

    Noise levels are on the 0-255 scale, times in minutes, the side of a patch in pixels.
    """

    network: str  # "paper" or "photo"
    noise: str  # "random-pixel", "gaussian" or "camera"
    noise_range: tuple[float, float]  # random-pixel: side of the block; gaussian, and camera's white noise: sigma
    optimizer: str  # "sgd", "adam" or "muon"
    lr: float
    batch: int
    patch: int
    minutes: float = 10  # duration, unless steps are given
    steps: int = 0
    hidden: int = 256  # paper: channels
    geometry: str = "weights"  # paper: "text" or "weights"
    channels: tuple[int, ...] = (32, 64, 128)  # photo: widths at 1/2, 1/4, ...
    blocks: tuple[int, ...] = (1, 1, 3, 1, 1)  # photo: residual blocks a level
    target_views: int = 1  # the target is the mean of this many noisy views
    grey: float = 0.0  # gaussian, camera: share of scenes without colour
    rounded: float = 0.0  # gaussian, camera: share of inputs clipped and rounded to 8 bits
    jpeg: float = 0.6  # camera: share of inputs that become JPEG files, not counting those with white noise
    white: float = 0.25  # camera: share of scenes with white noise
    raw: float = 0.125  # camera: share with noise of raw pixels; the others have noise of cameras' JPEG files
    soft: float = 0.0  # camera: share of scenes as soft as a camera's image at full size
    stabilised: float = 0.0  # gaussian, camera: share of scenes with photon noise after the Anscombe transform
    synthetic: float = 0.0  # share of dead leaves among photos
    patterns: float = 0.0  # share of scenes that are patterns: stripes, checks, dots or text
    measured: float = 0.0  # share of scenes as microscopes and telescopes record them: spots, filaments, stars
    zoom: float = 1.0  # photos are scaled down by a factor drawn from this to 1
    tries: int = 3  # places tried for each crop; the one with the most detail is taken
    adam_lr: float = 1e-3  # muon: for the first and the last layer
    weight_decay: float = 0.0  # muon: each step shrinks the weights by this times lr
    warmup: int = 0  # steps
    decay: float = 0.3  # last part of the run, over which lr falls to 0
    average: float = 0.999  # decay of the moving average of the weights
    clip: float = 0.0  # largest norm of the gradient; 0: no limit
    precision: str = "auto"  # "float32", "bfloat16", or "auto": whichever is faster
    seed: int = 0

    def __post_init__(self) -> None:
        _check_choice("network", self.network, ("paper", "photo"))
        _check_choice("noise", self.noise, ("random-pixel", "gaussian", "camera"))
        _check_choice("optimizer", self.optimizer, ("sgd", "adam", "muon"))
        _check_choice("precision", self.precision, ("auto", "float32", "bfloat16"))
        for name in ("lr", "batch", "patch", "minutes", "target_views", "tries", "adam_lr"):
            _check_range(name, getattr(self, name), 0, float("inf"), above=True)
        for name in ("steps", "warmup", "clip", "weight_decay"):
            _check_range(name, getattr(self, name), 0, float("inf"))
        for name in (
            "synthetic",
            "decay",
            "average",
            "grey",
            "rounded",
            "jpeg",
            "white",
            "raw",
            "soft",
            "stabilised",
            "patterns",
            "measured",
        ):
            _check_range(name, getattr(self, name), 0, 1)
        _check_range("zoom", self.zoom, 0.1, 1)
        low, high = self.noise_range
        if not 0 <= low <= high:
            raise ValueError(
                f"noise_range takes the lowest level, at least 0, and the highest; got {low:g} and {high:g}"
            )
        if self.noise == "random-pixel" and (low < 1 or low % 1 or high % 1):
            raise ValueError(
                f"noise_range of random-pixel noise takes whole numbers of at least 1; got {low:g} and {high:g}"
            )
        if self.white + self.raw > 1:
            raise ValueError(f"white and raw must add up to 1 at most; got {self.white:g} and {self.raw:g}")
        if self.patterns + self.measured > 1:
            raise ValueError(
                f"patterns and measured must add up to 1 at most; got {self.patterns:g} and {self.measured:g}"
            )
        # Raises ValueError for values that do not make a network.
        self.network_config()

    def network_config(self) -> NetworkConfig:
        """The network to train: its kind and size."""
        if self.network == "paper":
            return AutoencoderConfig(self.hidden, self.geometry)
        return UNetConfig(self.channels, self.blocks)

    def with_size_of(self, config: NetworkConfig) -> "Recipe":
        """The same for a network of that size, which must be of the same kind."""
        if isinstance(config, AutoencoderConfig):
            return replace(self, hidden=config.hidden, geometry=config.geometry)
        return replace(self, channels=config.channels, blocks=config.blocks)

    def noise_model(self) -> NoiseModel:
        """The model of the noise to train on."""
        model = self.validation_noise()
        if self.noise == "random-pixel" or not self.stabilised:
            return model
        return PartlyStabilised(model, self.stabilised, self.grey, self.target_views)

    def validation_noise(self) -> NoiseModel:
        """The model of the noise to validate on: without stabilised noise, so its PSNR fits earlier runs'."""
        low, high = self.noise_range
        if self.noise == "random-pixel":
            return RandomPixelNoise(int(low), int(high), self.target_views)
        if self.noise == "gaussian":
            return GaussianNoise(low, high, self.target_views, self.grey, self.rounded)
        shares = {name: getattr(self, name) for name in ("grey", "rounded", "jpeg", "white", "raw", "soft")}
        return CameraNoise(low, high, self.target_views, **shares)

    def to_dict(self) -> dict[str, Any]:
        """For logs, checkpoints and the metadata of weights."""
        return asdict(self)


def recipe_keys() -> list[str]:
    """The names of a recipe's values."""
    return [field.name for field in fields(Recipe)]


def shipped_recipes() -> list[str]:
    """Names of the recipes in `engine/training/recipes/`."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def read_recipe(name: str, overrides: Mapping[str, str] | None = None) -> Recipe:
    """A shipped recipe by its name, or a .toml file by its path. overrides: values as text, by key.

    Raises ValueError naming a recipe or a key that does not exist, or a value that does not fit.
    """
    file = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not file.is_file():
        raise ValueError(
            f"no recipe {name!r}; choose one of {', '.join(shipped_recipes())}, or give a .toml file"
        )
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: not valid TOML: {error}") from error
    return recipe_from_dict({**values, **(overrides or {})}, str(file.name))


def recipe_from_dict(values: Mapping[str, Any], origin: str) -> Recipe:
    """A recipe from values that may be text or lists. Raises ValueError as read_recipe does.

    origin: where the values come from, for the message.
    """
    hints = get_type_hints(Recipe)
    known = recipe_keys()
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{origin}: unknown: {', '.join(unknown)}; a recipe takes {', '.join(known)}")
    try:
        return Recipe(**{key: _convert(key, value, hints[key]) for key, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{origin}: {error}") from error


def _convert(key: str, value: Any, kind: Any) -> Any:
    """A value from TOML, or the text of a flag, as the type of the recipe's field."""
    if get_origin(kind) is tuple:
        parts = value.replace(",", " ").split() if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ValueError(f"{key} takes a list; got {value!r}")
        element, length = get_args(kind)[0], len(get_args(kind))
        if Ellipsis not in get_args(kind) and len(parts) != length:
            raise ValueError(f"{key} takes {length} values; got {value!r}")
        return tuple(_convert(key, part, element) for part in parts)
    try:
        converted = kind(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key} takes {kind.__name__}; got {value!r}") from error
    # TOML has types of its own: int(8.5) and str(8) would hide a mistake.
    if converted != value and not isinstance(value, str):
        raise ValueError(f"{key} takes {kind.__name__}; got {value!r}")
    return converted


def _check_choice(name: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}; got {value!r}")


def _check_range(name: str, value: float, low: float, high: float, above: bool = False) -> None:
    if not (low < value if above else low <= value) or not value <= high:
        least = "more than" if above else "at least"
        most = "" if high == float("inf") else f" and at most {high:g}"
        raise ValueError(f"{name} must be {least} {low:g}{most}; got {value:g}")
