"""The models there are, and the weights that serve under their names."""

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field, TypeAdapter

from engine.inference.model_selection import CHOICES
from engine.models.networks import kind_of
from service.auth.dependencies import admin
from service.middleware.etag import with_etag
from service.problems import documented
from service.registry.registry import ModelRegistry
from service.registry.snapshot import Digests, Loaded, Previous, Snapshot

_REFUSED = documented({403: "Not with an admin's key.", 404: "No such model."})

router = APIRouter(prefix="/models")


class About(BaseModel):
    """A model that a request may name."""

    name: str
    default: bool
    kind: str = Field(description="The network, or that one of several is chosen by the noise found.")
    digests: Digests
    previous: Previous
    loaded: Loaded
    metadata: dict[str, str]


_LIST = TypeAdapter(list[About])


@router.get("", response_model=list[About], responses={304: {"description": "As the client has it."}})
async def get_models(request: Request) -> Response:
    """The models there are, each with what is known of its training."""
    models: Snapshot = request.state.shelf.models
    listed = _LIST.dump_json([_about(models, name) for name in models.names])
    return with_etag(request, Response(listed, media_type="application/json"))


# Plain `def`: weights are read and tried in a worker thread, and the event loop answers others.
@router.post(
    "/{name}/activate",
    dependencies=[Depends(admin)],
    responses={**_REFUSED, **documented({422: "The file cannot be used; what was served still is."})},
)
def post_activate(request: Request, name: str) -> About:
    """Serve the file of that name in the weights folder as it is now, without waiting until it is looked at."""
    shelf: ModelRegistry = request.state.shelf
    shelf.activate(name)
    return _about(shelf.models, name)


@router.post(
    "/{name}/rollback",
    dependencies=[Depends(admin)],
    responses={**_REFUSED, **documented({409: "No other weights were served before."})},
)
def post_rollback(request: Request, name: str) -> About:
    """Serve the weights that were served before; once more, or the next change of the file, undoes it."""
    shelf: ModelRegistry = request.state.shelf
    shelf.roll_back(name)
    return _about(shelf.models, name)


def _about(models: Snapshot, name: str) -> About:
    if name in CHOICES:
        kind, metadata = "choice", {}
    else:
        kind, metadata = kind_of(models.by_name[name].spec), models.by_name[name].metadata
    return About(name=name, default=name == models.default, kind=kind, metadata=metadata, **models.history(name))
