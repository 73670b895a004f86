"""`denoise keys`: creates, lists and revokes API keys."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.auth import api_keys
from service.cli.console import out
from service.cli.options import Command, Group

app = typer.Typer(
    cls=Group,
    rich_markup_mode="markdown",
    help="""Create, list and revoke API keys. A running service applies changes at once.

    - `denoise keys add scanner --keys-file keys`

    - `denoise keys revoke scanner --keys-file keys`
    """,
)

FileOption = Annotated[
    Path, typer.Option("--keys-file", envvar="DENOISE_KEYS_FILE", help="File of keys that the service reads.")
]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the key's owner: letters, digits, . _ -")
]


@app.command(cls=Command)
def add(
    name: NameArgument,
    keys_file: FileOption,
    admin: Annotated[
        bool, typer.Option("--admin", help="Allow administration, such as changing the weights.")
    ] = False,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Most requests per minute.", show_default="the service's limit")
    ] = None,
    pixels: Annotated[
        int | None, typer.Option(min=1, help="Most pixels per hour.", show_default="the service's limit")
    ] = None,
) -> None:
    """Create a key and print it. It cannot be shown again, because the file holds only its hash.

    - `denoise keys add scanner --keys-file keys`

    - `denoise keys add web --rate 60 --pixels 500000000`
    """
    typer.echo(api_keys.add_key(keys_file, name, admin, rate, pixels))


@app.command("list", cls=Command)
def list_(keys_file: FileOption) -> None:
    """List the keys by name.

    - `denoise keys list --keys-file keys`
    """
    table = Table("name", "created", "admin", "requests a minute", "pixels an hour")
    for key in api_keys.read_keys(keys_file):
        created = f"{key.created:%Y-%m-%d %H:%M}" if key.created else ""
        limits = [f"{limit:,}" if limit else "" for limit in (key.rate, key.pixels)]
        table.add_row(key.name, created, "yes" if key.admin else "", *limits)
    out.print(table)


@app.command(cls=Command)
def revoke(name: NameArgument, keys_file: FileOption) -> None:
    """Revoke a key. The next request that carries it is refused.

    - `denoise keys revoke scanner --keys-file keys`
    """
    api_keys.revoke_key(keys_file, name)
