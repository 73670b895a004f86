"""`denoise publish`: lets a running service, or all replicas of one, serve a weights file."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from service.cli.console import out
from service.settings import API_KEY

if TYPE_CHECKING:
    import httpx2 as httpx

    from engine.models.checkpoint import Model

# As engine.inference.adapted_noise has them, which imports torch.
GATE_KEY = "gate"
REFUSED = "refused"
# Longest silence of the service, in seconds: it tries the weights before it answers.
TIMEOUT = 330.0
UrlOption = Annotated[str | None, typer.Option("--url", metavar="URL", help="A running service, to send it to.")]
KeyOption = Annotated[
    str,
    typer.Option(
        envvar=API_KEY,
        metavar="KEY",
        help="An admin key of that service. Set in the variable, other users of the machine do not see it.",
        show_default="none, for a service without keys",
    ),
]


def publish(
    file: Annotated[Path, typer.Argument(help="Weights file, .safetensors.", exists=True, dir_okay=False)],
    name: Annotated[
        str | None, typer.Option(help="Name to serve it under.", show_default="the file's name")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = "",
) -> None:
    """Let a service serve a weights file, without a restart.

    With --url, the file is sent to a running service, which checks it, puts it into its weights folder and serves
    it. Without, all replicas that share a database are told to serve it: that needs DENOISE_DATABASE and
    DENOISE_BLOBS, with the values that the replicas have. `POST /models/NAME/rollback` returns to the weights
    that were served before.

    - `denoise publish mine.safetensors --url http://127.0.0.1:8000`

    - `denoise publish mine.safetensors --name photo`
    """
    name = name or file.stem
    (refuse_sent_name if url else refuse_name)(name)
    model = checked(file)
    if model.metadata.get(GATE_KEY) == REFUSED:
        raise ValueError(f"{file}: `denoise adapt` found these weights not better than others, and refused them")
    if url:
        send(file, name, url, key)
        out.print(f"{url} serves {name} with SHA-256 {model.digest}.", soft_wrap=True)
    else:
        _share(file, name, model.digest)
        out.print(f"All replicas are to serve {name} with SHA-256 {model.digest}.", soft_wrap=True)


def refuse_name(name: str) -> None:
    """Raises ValueError for a name that weights cannot have."""
    from engine.inference.model_selection import AUTO_MODELS

    if name in AUTO_MODELS or not name.isprintable() or "/" in name:
        raise ValueError(f"weights cannot have the name {name!r}")


def refuse_sent_name(name: str) -> None:
    """Raises ValueError for a name that a running service does not take."""
    from service.registry.weights_folder import NAME_PATTERN

    refuse_name(name)
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(
            f"weights cannot be sent under the name {name!r}: choose at most 50 letters, digits, dots, - and _, "
            "and no dot in front"
        )


def checked(file: Path) -> "Model":
    """The weights. Raises ValueError if they cannot be used."""
    from engine.inference.sanity import check_network
    from engine.models import checkpoint

    model = checkpoint.load(file)
    try:
        check_network(model.net)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return model


def send(file: Path, name: str, url: str, key: str) -> None:
    """Send weights to a running service, and see that it serves them.

    Raises ValueError if it cannot be reached, refuses them, or serves others.
    """
    data = file.read_bytes()
    answer = _ask("PUT", f"/models/{quote(name, safe='')}", url, key, content=data)
    served, digest = answer.get("digests", {}).get(name), hashlib.sha256(data).hexdigest()
    if served != digest:
        raise ValueError(f"{url} serves {name} with SHA-256 {served}, but the file has {digest}; try again")


def refuse_absent(url: str, key: str) -> None:
    """Raises ValueError if no service answers there, or it refuses the key."""
    _ask("GET", "/models", url, key)


def _ask(method: str, path: str, url: str, key: str, **body: Any) -> Any:
    with _http(url, key) as http:
        answer = http.request(method, path, **body)
        if answer.is_success:
            return answer.json()
        is_problem = answer.headers.get("content-type") == "application/problem+json"
        detail = answer.json()["detail"] if is_problem else f"{answer.status_code} {answer.reason_phrase}"
        if answer.status_code in (404, 405) and method == "PUT":
            detail = f"{detail} An older version of the service takes no weights."
        raise ValueError(f"{url} refuses: {detail}")


@contextmanager
def _http(url: str, key: str) -> Iterator["httpx.Client"]:
    """Raises ValueError if the service cannot be reached."""
    try:
        import httpx2 as httpx
    except ImportError as error:
        raise ValueError("publishing to a URL needs the package httpx2: pip install 'denoise[client]'") from error
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT) as http:
            yield http
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"{url} cannot be reached: {str(error) or type(error).__name__}") from error


def _share(file: Path, name: str, digest: str) -> None:
    """Let all replicas serve the file. Raises ValueError."""
    from service.registry.shared_weights import SharedWeights
    from service.settings import Settings, variable
    from service.storage.away import StorageAway
    from service.storage.storage import open_storage

    storage = open_storage(Settings())
    if storage is None:
        raise ValueError(
            f"{variable('database')} and {variable('blobs')} are not set: set them as the replicas have them, or "
            "name a service with --url"
        )
    try:
        SharedWeights(storage).publish(name, digest, file)
    except StorageAway as error:
        raise ValueError(str(error)) from error
    finally:
        storage.close()
