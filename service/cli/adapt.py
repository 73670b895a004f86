"""`denoise adapt`: trains weights for one's own noise from noisy shots, and proves that they are better."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer

from service.cli.console import out, warn, warn_without_kernels
from service.cli.options import out_option, output_file
from service.cli.publish import KeyOption, refuse_absent, refuse_sent_name, send

if TYPE_CHECKING:
    from engine.adaptation import Adaptation, AdaptProgress, Examination
    from engine.adaptation.scenes import KindChoice

REPORT_HELP = "Report to write, .html. Without it, it lies beside the weights; none with --list."
# Exit code after Ctrl-C.
INTERRUPTED = 130
# Exit code if the adapted weights are not certainly better than those in service.
REFUSED = 3
KIND_HELP = (
    "What the shots are, in place of what is found: pair, burst, stack, mean (noisy shots and the mean of many), "
    "single, or auto."
)

StartOption = Annotated[
    str,
    typer.Option(help="Weights to begin from: a shipped name, a .safetensors file, or auto, which tries some."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Decides which scenes are held out, and all other chance.")]
StepsOption = Annotated[
    int, typer.Option(min=0, help="Train for this number of steps instead of minutes; 0: for minutes.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print all numbers of the report as JSON.")]
ReportOption = Annotated[
    Path | None, typer.Option(help=REPORT_HELP, parser=output_file, metavar="FILE", show_default=False)
]
PublishOption = Annotated[
    str | None, typer.Option(metavar="URL", help="A running service, to which better weights are sent.")
]


def adapt(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with noisy shots.")],
    output: Annotated[Path | None, out_option("Weights file to write, .safetensors.")] = None,
    minutes: Annotated[
        float, typer.Option(min=0.01, help="Training time. It ends sooner when nothing is gained any more.")
    ] = 30,
    only_list: Annotated[
        bool, typer.Option("--list", help="Only say what the folder holds, and what was found in it.")
    ] = False,
    kind: Annotated[str, typer.Option("--as", metavar="KIND", help=KIND_HELP)] = "auto",
    start: StartOption = "auto",
    seed: SeedOption = 0,
    steps: StepsOption = 0,
    report: ReportOption = None,
    as_json: JsonOption = False,
    publish: PublishOption = None,
    key: KeyOption = "",
) -> None:
    """Train weights for your own noise from noisy shots. No clean image is needed.

    The folder holds two or more shots of each of several scenes, stacks of frames, or single shots. Some scenes
    are held out. The weights are written only if they denoise these better than the shipped weights do, with 95 %
    confidence. Otherwise the command says why, keeps them as NAME.refused.safetensors, and exits with 3. A report
    shows what was found, what was measured and how to repeat it.

    - `denoise adapt shots/ --list`

    - `denoise adapt shots/ --out weights/mine.safetensors --minutes 30`

    - `denoise adapt shots/ --out mine.safetensors --publish http://127.0.0.1:8000`
    """
    from engine.adaptation import adapt as run
    from engine.adaptation import examine
    from engine.adaptation.scenes import KINDS

    if kind not in ("auto", *KINDS):
        raise typer.BadParameter(f"{kind!r} is none of auto, {', '.join(KINDS)}", param_hint="--as")
    choice = cast("KindChoice", kind)
    if only_list:
        _list(examine(folder, choice), report, as_json)
        return
    if output is None:
        raise typer.BadParameter("is missing. Name the weights file to write, or use --list", param_hint="--out")
    _refuse_unpublishable(output, publish, key)
    warn_without_kernels()
    result = run(
        folder,
        output,
        minutes,
        kind=choice,
        start=start,
        seed=seed,
        steps=steps,
        on_progress=_Reporter(),
    )
    _show(result, report or result.weights.with_suffix(".html"), as_json, lines_of(result))
    _end(result, publish, key)


def _end(result: "Adaptation", url: str | None, key: str) -> None:
    if result.stopped:
        _end_stopped(result, url)
    if not result.passed:
        raise typer.Exit(REFUSED)
    _publish(result.weights, url, key)


def _end_stopped(result: "Adaptation", url: str | None) -> NoReturn:
    """After Ctrl-C. What was judged is kept, and not published: that was not what the user wanted to wait for."""
    warn(f"stopped by a signal after {result.steps} steps; what was best until then was judged")
    if url and result.passed:
        warn(
            f"not published; to publish: {shlex.join(['denoise', 'publish', str(result.weights), '--url', url])}"
        )
    raise typer.Exit(INTERRUPTED)


def _refuse_unpublishable(output: Path, url: str | None, key: str) -> None:
    """Raises ValueError before the training, which takes long, if the weights cannot be published after it."""
    if url:
        if _is_shipped(output.stem):
            raise ValueError(
                f"{output.stem} is the name of shipped weights, and --publish would replace them. "
                "Give the weights another name with --out"
            )
        refuse_sent_name(output.stem)
        refuse_absent(url, key)


def _is_shipped(name: str) -> bool:
    """Whether weights of that name came with the package. One's own may lie in the same folder."""
    from engine.inference.adapted_noise import GATE_KEY
    from engine.models.checkpoint import SUFFIX, read_metadata, weights_folder

    file = weights_folder() / f"{name}{SUFFIX}"
    return file.exists() and GATE_KEY not in read_metadata(file)


def _publish(weights: Path, url: str | None, key: str) -> None:
    """Send weights that have passed the gate to a service. Raises ValueError that says how to do it later."""
    if url is None:
        return
    try:
        send(weights, weights.stem, url, key)
    except ValueError as error:
        reason = str(error).removesuffix(".")
        later = shlex.join(["denoise", "publish", str(weights), "--url", url])
        raise ValueError(f"{weights} is written, but not published: {reason}. To publish it: {later}") from error
    warn(f"published as {weights.stem} to {url}")


def _list(examination: "Examination", report: Path | None, as_json: bool) -> None:
    from engine.adaptation import render

    _show(examination, report, as_json, [render(examination)])
    if not examination.usable:
        raise ValueError(f"{examination.folder}: no scene of this folder can be learnt from; the table says why")


def _show(result: "Adaptation | Examination", path: Path | None, as_json: bool, lines: Sequence[str]) -> None:
    """Write the report, and print what is known."""
    from engine.adaptation.report import make_report, to_json, write_html

    report = make_report(result)
    if path is not None:
        write_html(report, path)
        warn(f"wrote the report {path}")
    if as_json:
        typer.echo(to_json(report), nl=False)
    else:
        out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def lines_of(result: "Adaptation") -> list[str]:
    """The outcome, for people."""
    verdict = result.verdict
    lines = [
        f"Judged on {len(result.held_out)} held-out scenes: {result.judged_by}.",
        f"Gain over the noisy shots: {result.in_service} {verdict.before}, adapted {verdict.after}.",
        f"Improvement: {verdict.improvement}.",
    ]
    if result.passed:
        return [*lines, f"Wrote {result.weights}. To use it: denoise run --model {result.weights} IMAGE"]
    return [*lines, *verdict.reasons, f"Not good enough. Kept as {result.weights}, to look at only."]


class _Reporter:
    """Prints a line when a stage begins, and one for each look at the held-out scenes."""

    def __init__(self) -> None:
        self.stage = ""

    def __call__(self, progress: "AdaptProgress") -> None:
        if progress.examination:
            warn(_found(progress.examination))
        if progress.stage != self.stage:
            self.stage = progress.stage
            warn(_STAGES[progress.stage])
        if look := progress.look:
            warn(
                f"  {look.done:4.0%}  {look.point.minutes:.1f} minutes, step {look.point.step}: "
                f"gain {look.point.gain} on held-out scenes"
            )


def _found(examination: "Examination") -> str:
    """In one line, what the shots are and how many of them help."""
    from engine.adaptation.table import contents

    refused = sum(each.verdict == "left out" for each in examination.findings) + len(examination.left_out)
    missing = [f"; {each.reason}" for each in examination.findings if each.verdict == "missing"]
    usable = f"{len(examination.usable)} of {len(examination.scenes)} scenes can be learnt from"
    return (
        f"  {contents(examination)}; {usable}; "
        f"{refused} files or shots are left out{''.join(missing)}. Details: denoise adapt --list"
    )


_STAGES = {
    "examining": "looking at the shots",
    "preparing": "choosing the weights to begin from",
    "training": "training",
    "judging": "judging the result on held-out scenes",
}
