"""GET /models, and routes to send, activate and roll back weights."""

from functools import partial
from tempfile import TemporaryFile
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, Field, TypeAdapter

from engine.inference.adapted_noise import noise_words
from engine.inference.model_selection import AUTO_MODELS
from engine.models.networks import kind_of
from service.auth.dependencies import require_admin
from service.middleware.etag import with_etag
from service.problems import describe_problems
from service.registry.purpose import CHOICE, Noise, purpose_of
from service.registry.registry import ModelRegistry
from service.registry.snapshot import Digests, Loaded, Previous, Snapshot, Wanted
from service.registry.weights_folder import NAME_PATTERN, WeightsNotStored
from service.runtime.body import BodyLimit, counted
from service.runtime.upload import FILE_SCHEMA, OCTETS

_ADMIN_ERRORS = describe_problems({403: "Not an admin key.", 404: "No such model."})

router = APIRouter(prefix="/models", tags=["models"])


class ModelInfo(BaseModel):
    """A model that a request may name."""

    name: str
    default: bool
    kind: str = Field(
        description="The kind of network, or `choice` for a name that chooses a model by the noise."
    )
    noise: Noise | None = Field(
        description="The noise that the weights were trained on: of cameras, white, white without colour, of "
        "renders with few samples a pixel, or one's own. Null for a choice, and if the metadata does not say it."
    )
    use: str | None = Field(description="What the model is for, as a sentence. Null if that is not known.")
    adapted_to: str | None = Field(
        description="The noise that `denoise adapt` adapted the weights to, as a sentence. Null for all other "
        "weights."
    )
    for_photos: bool = Field(description="Whether the model may be used for photographs.")
    parameters: int = Field(
        ge=0,
        description="Number of trainable values, by which the work grows. Of a choice: of its largest model.",
    )
    digests: Digests
    wanted: Wanted
    previous: Previous
    loaded: Loaded
    metadata: dict[str, str]


_MODEL_LIST = TypeAdapter(list[ModelInfo])
_WEIGHTS_BODY = {
    "requestBody": {
        "required": True,
        "description": "The weights file, .safetensors. It may be compressed, as `Content-Encoding` says: gzip "
        "or deflate.",
        "content": {OCTETS: {"schema": FILE_SCHEMA}},
    }
}


@router.get(
    "",
    operation_id="list_models",
    summary="List the models",
    response_model=list[ModelInfo],
    responses={304: {"description": "The client has the current list."}},
)
async def get_models(request: Request) -> Response:
    """List the models, with the metadata of their training."""
    models: Snapshot = request.state.registry.models
    body = _MODEL_LIST.dump_json([_model_info(models, name) for name in models.names])
    return with_etag(request, Response(body, media_type="application/json"))


# Plain `def`: the framework runs it in a worker thread, so others are answered while weights are checked.
@router.put(
    "/{name}",
    operation_id="put_model",
    summary="Serve a weights file",
    dependencies=[Depends(require_admin)],
    responses={
        **_ADMIN_ERRORS,
        **describe_problems(
            {
                400: "A compressed body that cannot be unpacked.",
                409: "Another replica has changed the weights meanwhile.",
                413: "The file is too large.",
                415: "An unsupported compression of the body.",
                422: "The file is invalid, or the name cannot be served. The previous weights stay in service.",
                507: "The weights cannot be stored.",
            }
        ),
    },
    openapi_extra=_WEIGHTS_BODY,
)
async def put_model(request: Request, name: Annotated[str, Path(pattern=NAME_PATTERN)]) -> ModelInfo:
    """Check a weights file, and serve it under that name, on all replicas.

    A service without replicas puts it into its weights folder.
    """
    registry: ModelRegistry = request.state.registry
    limit = BodyLimit.of(request.state.settings, "max_batch_bytes")
    with TemporaryFile() as file:
        try:
            async for chunk in counted(request, limit).stream():
                await to_thread.run_sync(file.write, chunk)
        except OSError as error:
            raise WeightsNotStored(f"The weights cannot be stored: {error.strerror}.") from error
        await to_thread.run_sync(partial(registry.receive, name, file))
    return _model_info(registry.models, name)


@router.post(
    "/{name}/activate",
    operation_id="activate_model",
    summary="Load a weights file now",
    dependencies=[Depends(require_admin)],
    responses={
        **_ADMIN_ERRORS,
        **describe_problems({422: "The file is invalid. The previous weights stay in service."}),
    },
)
def post_activate(request: Request, name: str) -> ModelInfo:
    """Load the file of that name from the weights folder now, without waiting for the next check."""
    registry: ModelRegistry = request.state.registry
    registry.activate(name)
    return _model_info(registry.models, name)


@router.post(
    "/{name}/rollback",
    operation_id="roll_back_model",
    summary="Return to the previous weights",
    dependencies=[Depends(require_admin)],
    responses={**_ADMIN_ERRORS, **describe_problems({409: "There are no previous weights."})},
)
def post_rollback(request: Request, name: str) -> ModelInfo:
    """Return to the previous weights. A second call, or a change of the file, undoes it."""
    registry: ModelRegistry = request.state.registry
    registry.roll_back(name)
    return _model_info(registry.models, name)


def _model_info(models: Snapshot, name: str) -> ModelInfo:
    weights = [models.by_name[each] for each in models.weights_of(name)]
    if name in AUTO_MODELS:
        kind, metadata, purpose = "choice", {}, CHOICE
    else:
        kind, metadata = kind_of(weights[0].config), weights[0].metadata
        purpose = purpose_of(metadata)
    return ModelInfo(
        name=name,
        default=name == models.default,
        kind=kind,
        noise=purpose.noise,
        use=purpose.use,
        adapted_to=noise_words(metadata) or None,
        for_photos=purpose.for_photos,
        parameters=max(each.parameter_count for each in weights),
        metadata=metadata,
        **models.history(name),
    )
