"""Served model: weights that were read, and their network, which is built and tried at its first use."""

from collections.abc import Callable
from threading import Lock

import torch

from engine.inference.adapted_noise import choosable
from engine.inference.sanity import check_network
from engine.models.checkpoint import Model, WeightsFile
from service.problems import RETRY_SECONDS, ProblemError
from service.telemetry.logs import log


class ModelUnavailable(ProblemError):
    """Weights whose network cannot be built, or does not denoise the check image."""

    status = 503


class ServedModel:
    """Weights of the registry. For threads: of several that ask first, one builds the network.

    A trial needs memory and up to some seconds, and most services never use most of their models.
    """

    def __init__(
        self,
        file: WeightsFile,
        device: torch.device,
        compute: torch.dtype,
        on_fault: Callable[["ServedModel", str], None] = lambda model, reason: None,
    ) -> None:
        """on_fault: called with the reason when the weights turn out to be unusable at their first use."""
        self.name, self.config, self.metadata, self.digest = file.name, file.config, file.metadata, file.digest
        self.parameter_count = file.parameter_count
        # For adapted weights that `auto` may choose, the noise that they were adapted to.
        self.noise = choosable({file.name: file.metadata}).get(file.name)
        self._device, self._compute, self._on_fault = device, compute, on_fault
        self._lock = Lock()
        # The tensors stay in memory until the network is built, because the file may change or go meanwhile.
        self._file: WeightsFile | None = file
        self._model: Model | None = None
        self._fault: str | None = None

    @property
    def tried(self) -> bool:
        """Whether the network was built and has denoised the check image."""
        return self._model is not None

    @property
    def fault(self) -> str | None:
        """Why the weights are unusable, if a trial has found that out."""
        return self._fault

    def load(self) -> Model:
        """The model. Builds and tries it at the first call.

        Raises ValueError for unusable weights, and RuntimeError or MemoryError if memory is short, which a later
        call may not be.
        """
        if self._model is None:
            with self._lock:
                if self._model is None:
                    self._model = self._build()
                    self._file = None
        return self._model

    def model(self) -> Model:
        """As `load`, for a request. Call it in a thread, because it may take seconds.

        Raises ModelUnavailable.
        """
        try:
            return self.load()
        except ValueError as error:
            self._on_fault(self, str(error))
            raise ModelUnavailable(
                f"Model {self.name!r} cannot be used: {error}. Choose another model, or replace its weights file."
            ) from error
        # torch raises RuntimeError when it gets no memory.
        except (RuntimeError, MemoryError) as error:
            reason = str(error) or type(error).__name__
            log.error("model cannot be loaded", model=self.name, error=reason)
            raise ModelUnavailable(
                f"Model {self.name!r} cannot be loaded now: {reason}. Try again later.",
                headers={"Retry-After": str(RETRY_SECONDS)},
            ) from error

    def _build(self) -> Model:
        if self._fault is not None:
            raise ValueError(self._fault)
        assert self._file is not None
        model = self._file.build(self._device, self._compute)
        try:
            check_network(model.net)
        except ValueError as error:
            self._fault, self._file = str(error), None
            raise
        return model
