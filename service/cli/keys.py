"""The command `denoise keys`: make keys, list them, take them back."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.auth import api_keys

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Keys that requests must carry: make, list and revoke them. A running service takes a change at once.

    - `denoise keys add scanner --keys-file keys`

    - `denoise keys revoke scanner --keys-file keys`
    """,
)

FileOption = Annotated[
    Path, typer.Option("--keys-file", envvar="DENOISE_KEYS_FILE", help="The file that the service is given.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is: letters, digits, . _ -")]


@app.command()
def add(
    name: NameArgument,
    keys_file: FileOption,
    admin: Annotated[bool, typer.Option("--admin", help="May change the service too, as its weights.")] = False,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Requests a minute.", show_default="the service's")
    ] = None,
    pixels: Annotated[
        int | None, typer.Option(min=1, help="Pixels an hour.", show_default="the service's")
    ] = None,
) -> None:
    """Make a key and print it, this once: the file holds only its hash.

    - `denoise keys add scanner --keys-file keys`

    - `denoise keys add web --rate 60 --pixels 500000000`
    """
    typer.echo(api_keys.add_key(keys_file, name, admin, rate, pixels))


@app.command("list")
def list_(keys_file: FileOption) -> None:
    """List the keys there are, by name.

    - `denoise keys list --keys-file keys`
    """
    table = Table("name", "created", "admin", "requests a minute", "pixels an hour")
    for key in api_keys.read_keys(keys_file):
        created = f"{key.created:%Y-%m-%d %H:%M}" if key.created else ""
        limits = [f"{limit:,}" if limit else "" for limit in (key.rate, key.pixels)]
        table.add_row(key.name, created, "yes" if key.admin else "", *limits)
    Console().print(table)


@app.command()
def revoke(name: NameArgument, keys_file: FileOption) -> None:
    """Take a key back: the next request that carries it is refused.

    - `denoise keys revoke scanner --keys-file keys`
    """
    api_keys.revoke_key(keys_file, name)
