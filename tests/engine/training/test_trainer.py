import errno
import json
import os
import signal
import threading
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from engine.data import sources
from engine.models import checkpoint
from engine.models.unet import UNetConfig
from engine.optim import ParameterEMA
from engine.training import loop, trainer
from engine.training.log import LogLine
from engine.training.loop import Diverged
from engine.training.recipe import Recipe
from engine.training.trainer import Trainer
from engine.training.training_job import TrainingJob

RECIPE = Recipe(
    network="photo",
    noise="gaussian",
    noise_range=(0, 55),
    optimizer="muon",
    lr=0.006,
    batch=2,
    patch=8,
    steps=12,
    channels=(4, 6),
    blocks=(1, 1, 1),
    zoom=0.6,
    warmup=3,
    clip=1.0,
    precision="float32",
)


def speckled(seed, *shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(trainer, "VALIDATION_IMAGES", 4)
    monkeypatch.setattr(sources, "SYNTHETIC_SIDE", 24)
    monkeypatch.setattr(sources, "SYNTHETIC_POOL", 2)
    monkeypatch.setattr(sources, "SYNTHETIC_STEPS", 4)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(speckled(number, 30, 24, 3).numpy()).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def recorded(tmp_path):
    path = tmp_path / "recorded.pkl"
    torch.save((speckled(1, 5, 3, 12, 12), speckled(2, 5, 3, 12, 12)), path)
    return path


@pytest.fixture
def run(tmp_path, photos):
    """run(name="a", ...): a whole run into tmp_path, reporting every step; returns whether it came to its end."""

    def start(name="a", recipe=RECIPE, data=None, report=lambda line: None, warn=pytest.fail, **values):
        often = {"log_every": 0, "validate_every": 1e9, "save_every": 1e9, "device": "cpu"}
        data = (photos,) if data is None else data
        return trainer.run(
            TrainingJob(recipe, tmp_path / f"{name}.safetensors", data, **often | values), report, warn
        )

    return start


def at(step, action):
    """A report that does something once, after a step: the last step of a run is reported twice."""
    actions = [action]
    return lambda line: actions.pop()() if line.step == step and actions else None


def stop(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def tensors(path):
    return safetensors.torch.load_file(path)


def about(path):
    with safetensors.safe_open(path, "pt") as opened:
        return opened.metadata()


def log_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# Stopping and resuming


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
@pytest.mark.parametrize("data", ["photos", "recorded", "synthetic", "mixed"])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(run, tmp_path, request, optimizer, data):
    recipe = replace(RECIPE, optimizer=optimizer, synthetic=0.5 if data == "mixed" else 0.0)
    folder = {"recorded": "recorded", "photos": "photos", "mixed": "photos"}.get(data)
    paths = (request.getfixturevalue(folder),) if folder else ()

    assert run("whole", recipe, paths)
    assert not run("parted", recipe, paths, at(5, stop))
    stopped = int(about(tmp_path / "parted.checkpoint")["step"])
    assert run("parted", recipe, paths, resume=True)

    assert stopped == 5
    assert about(tmp_path / "parted.checkpoint")["pixels"] == about(tmp_path / "whole.checkpoint")["pixels"]
    for suffix in (".safetensors", ".checkpoint"):
        one, other = tensors(tmp_path / f"whole{suffix}"), tensors(tmp_path / f"parted{suffix}")
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_with_everything_saved(run, tmp_path, number):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    ended = run(report=at(4, lambda: stop(number)))

    assert not ended
    assert about(tmp_path / "a.checkpoint")["step"] == "4"
    assert checkpoint.load(tmp_path / "a.safetensors").metadata["steps"] == "4"
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_a_second_signal_interrupts_at_once(run):
    def twice():
        ours = signal.getsignal(signal.SIGINT)
        stop(signal.SIGINT)
        # While another thread runs, a signal is handled a little later; two at once would count as one.
        while signal.getsignal(signal.SIGINT) is ours:
            time.sleep(0.001)
        stop(signal.SIGINT)
        time.sleep(10)

    # As at a terminal; a shell's background jobs ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(report=at(2, twice))
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_can_be_made_longer(run, tmp_path):
    run()

    assert run(recipe=replace(RECIPE, steps=15), resume=True)

    assert about(tmp_path / "a.checkpoint")["step"] == "15"


def test_a_run_of_minutes_counts_those_before_the_stop(run, tmp_path):
    recipe = replace(RECIPE, steps=0, minutes=1 / 600)
    run(recipe=recipe)
    before = about(tmp_path / "a.checkpoint")

    assert run(recipe=recipe, resume=True)

    after = about(tmp_path / "a.checkpoint")
    assert float(before["seconds"]) >= 0.1
    assert float(after["seconds"]) >= float(before["seconds"])
    assert after["step"] == before["step"]


def test_a_run_outside_the_main_thread_needs_no_signals(run):
    ended = []
    thread = threading.Thread(target=lambda: ended.append(run()))
    thread.start()
    thread.join()

    assert ended == [True]


# Beginning from weights


SLOW = replace(RECIPE, lr=1e-9, adam_lr=1e-9, steps=4, warmup=0)


def test_a_run_may_begin_from_the_weights_of_another(run, tmp_path):
    run("first")
    start = tmp_path / "first.safetensors"

    assert run(recipe=SLOW, start=start)
    run("drawn", SLOW)

    given, got, drawn = (tensors(tmp_path / f"{name}.safetensors") for name in ("first", "a", "drawn"))
    for name in given:
        torch.testing.assert_close(got[name], given[name], rtol=0, atol=1e-6)
    assert not all(torch.allclose(drawn[name], given[name], atol=1e-3) for name in given)
    # All else is as in any new run.
    assert about(tmp_path / "a.checkpoint")["step"] == "4"
    assert tensors(tmp_path / "a.checkpoint")["average.updates"] == 4


def test_the_weights_of_a_smaller_network_grow_into_the_recipes(run, tmp_path):
    run("first")
    first = checkpoint.load(tmp_path / "first.safetensors")

    run(recipe=replace(SLOW, channels=(5, 8), blocks=(1, 2, 1)), start=first.path)

    grown = checkpoint.load(tmp_path / "a.safetensors")
    x = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(1))
    assert grown.config == UNetConfig((5, 8), (1, 2, 1))
    assert grown.metadata["start"] == f"first {first.digest}"
    torch.testing.assert_close(grown.net.forward(x), first.net.forward(x), rtol=0, atol=1e-5)


def test_the_weights_to_begin_from_are_not_changed(run, tmp_path):
    run("first")
    before = (tmp_path / "first.safetensors").read_bytes()

    run(start=tmp_path / "first.safetensors")

    assert (tmp_path / "first.safetensors").read_bytes() == before


def test_the_weights_record_what_their_run_began_from(run, tmp_path):
    run("first")
    first = checkpoint.load(tmp_path / "first.safetensors")

    run(report=at(5, stop), start=first.path)
    stopped = checkpoint.load(tmp_path / "a.safetensors").metadata
    run(resume=True)

    ended = checkpoint.load(tmp_path / "a.safetensors").metadata
    assert stopped["start"] == ended["start"] == f"first {first.digest}"
    assert ended["steps"] == "12"
    assert "start" not in first.metadata


def test_a_resumed_run_that_began_from_weights_ends_the_same(run, tmp_path):
    run("first", replace(RECIPE, seed=5))
    start = tmp_path / "first.safetensors"

    run("whole", start=start)
    run("parted", report=at(5, stop), start=start)
    run("parted", resume=True)

    one, other = (tensors(tmp_path / f"{name}.safetensors") for name in ("whole", "parted"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("channels", [(3, 8), (4, 5), (4, 6, 8)])
def test_weights_that_cannot_grow_decide_the_size(run, tmp_path, channels):
    run("first")
    first = checkpoint.load(tmp_path / "first.safetensors")
    recipe = replace(RECIPE, channels=channels, blocks=(1,) * (2 * len(channels) - 1))

    run(recipe=recipe, report=at(5, stop), start=first.path)
    assert run(recipe=recipe, resume=True)

    ended = checkpoint.load(tmp_path / "a.safetensors")
    assert ended.config == first.config
    assert ended.metadata["steps"] == "12"
    assert ended.metadata["start"].startswith("first ")


def test_weights_that_cannot_grow_into_a_wanted_size_are_refused(run, tmp_path):
    run("first")

    with pytest.raises(
        ValueError, match=r'first.safetensors: holds the network .*"channels": \[4, 6\].*; '
    ) as error:
        run(recipe=replace(RECIPE, channels=(3, 8)), start=tmp_path / "first.safetensors", fixed_size=True)

    assert '; the recipe trains {"kind": "photo", "channels": [3, 8], "blocks": [1, 1, 1]}' in str(error.value)
    assert str(error.value).endswith("Leave out channels and blocks")
    assert not (tmp_path / "a.checkpoint").exists()


def test_weights_of_another_kind_are_refused_with_recipes(run, tmp_path):
    run("first")

    with pytest.raises(ValueError, match=r"Choose a recipe for this kind of network: .*photo-small"):
        run(recipe=replace(RECIPE, network="paper"), start=tmp_path / "first.safetensors")


def test_a_file_without_weights_is_refused_as_a_start(run, tmp_path):
    run("first")

    with pytest.raises(checkpoint.WeightsError, match=r"first.checkpoint: cannot load weights"):
        run(start=tmp_path / "first.checkpoint")
    with pytest.raises(checkpoint.WeightsError, match=r"none.safetensors: cannot load weights: .*No such file"):
        run(start=tmp_path / "none.safetensors")


def test_a_run_is_not_both_resumed_and_begun(run, tmp_path):
    run()

    with pytest.raises(ValueError, match=r"continues from its checkpoint and cannot begin from .*a.safetensors"):
        run(resume=True, start=tmp_path / "a.safetensors")


# Saved files


def test_the_weights_are_the_averaged_ones_and_load(run, tmp_path):
    run()

    state, model = tensors(tmp_path / "a.checkpoint"), checkpoint.load(tmp_path / "a.safetensors")

    for parameter in checkpoint.parameters(model.net):
        assert torch.equal(parameter.value, state[f"average.{parameter.name}"])
        assert not torch.equal(parameter.value, state[f"weights.{parameter.name}"])


def test_the_weights_record_where_they_come_from(run, tmp_path, photos):
    run(terms="CC0")

    metadata = checkpoint.load(tmp_path / "a.safetensors").metadata

    assert json.loads(metadata["recipe"])["lr"] == 0.006
    assert metadata["data"] == "holiday"
    assert metadata["images"] == "3 images, 1 of them held out"
    assert metadata["terms"] == "CC0"
    assert metadata["steps"] == "12"
    assert metadata["megapixels"] == "0.0"
    assert date.fromisoformat(metadata["date"])
    assert float(metadata["psnr"]) > 5
    assert float(metadata["seconds"]) >= 0


def test_weights_made_without_data_say_so(run, tmp_path):
    run(data=())

    assert checkpoint.load(tmp_path / "a.safetensors").metadata["data"] == "dead leaves"


def test_a_checkpoint_from_before_the_rate_falls_is_kept(run, tmp_path):
    recipe = replace(RECIPE, decay=0.5)

    run(recipe=recipe)

    assert about(tmp_path / "a.constant.checkpoint")["step"] == "7"
    assert about(tmp_path / "a.checkpoint")["step"] == "12"


def test_a_run_resumed_in_decay_keeps_the_constant_checkpoint(run, tmp_path):
    recipe = replace(RECIPE, decay=0.5)
    run(recipe=recipe, report=at(9, stop))
    before = (tmp_path / "a.constant.checkpoint").read_bytes()

    run(recipe=recipe, resume=True)

    assert (tmp_path / "a.constant.checkpoint").read_bytes() == before


def test_a_longer_run_goes_on_from_the_constant_checkpoint(run, tmp_path):
    recipe = replace(RECIPE, decay=0.5, warmup=0, steps=8)
    run("short", recipe)
    (tmp_path / "short.constant.checkpoint").replace(tmp_path / "long.checkpoint")
    longer = replace(recipe, steps=20)

    run("long", longer, resume=True)
    run("whole", longer)

    one, other = tensors(tmp_path / "long.safetensors"), tensors(tmp_path / "whole.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


# The log


def test_the_log_has_the_psnr_where_it_was_measured(run, tmp_path):
    run(validate_every=0.0)
    run("rarely")

    often, rarely = log_of(tmp_path / "a.jsonl"), log_of(tmp_path / "rarely.jsonl")

    keys = {"step", "seconds", "megapixels", "megapixels_per_second", "loss", "lr", "seconds_left"}
    assert often[0]["data"] == rarely[0]["data"] == "3 images, 1 of them held out"
    del often[0]["data"], rarely[0]["data"]
    assert all(line.keys() == keys | {"psnr"} for line in often)
    assert [line["step"] for line in rarely] == [*range(1, 13), 12]
    assert [line["step"] for line in rarely if "psnr" in line] == [1, 12]
    assert all(line.keys() - {"psnr"} == keys for line in rarely)
    assert rarely[-1]["megapixels"] == pytest.approx(12 * 2 * 8 * 8 / 1e6)
    assert rarely[0]["seconds"] <= rarely[-1]["seconds"]
    assert rarely[-1]["seconds_left"] == 0


def test_a_run_of_minutes_that_ends_late_has_no_time_left(run, tmp_path):
    run(recipe=replace(RECIPE, steps=0, minutes=0.002))

    assert log_of(tmp_path / "a.jsonl")[-1]["seconds_left"] == 0


def test_the_report_repeats_the_last_psnr_on_every_line(run):
    lines: list[LogLine] = []

    run(report=lines.append)

    assert len(lines) == 13
    assert len({line.psnr for line in lines[:-1]}) == 1
    assert all(line.psnr is not None for line in lines)


def test_a_resumed_run_goes_on_in_its_log(run, tmp_path):
    run(report=at(5, stop))
    run(resume=True)

    assert [line["step"] for line in log_of(tmp_path / "a.jsonl")] == [*range(1, 6), 5, *range(6, 13), 12]


def test_a_resumed_run_drops_from_its_log_what_it_will_do_again(run, tmp_path):
    run(report=at(5, stop))
    with (tmp_path / "a.jsonl").open("a") as log:
        log.write('{"step": 6, "loss": 1}\n{"step": 7, "lo')

    run(resume=True)

    assert [line["step"] for line in log_of(tmp_path / "a.jsonl")] == [*range(1, 6), 5, *range(6, 13), 12]


def test_a_new_run_begins_a_new_log(run, tmp_path):
    (tmp_path / "a.jsonl").write_text("old\n")

    run()

    assert log_of(tmp_path / "a.jsonl")[0]["step"] == 1


# Failures


class Disk:
    """A disk that can be full for a while."""

    def __init__(self, monkeypatch, log):
        self.full, self.log, fsync = False, log, os.fsync

        def sync(number):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(number)

        monkeypatch.setattr(os, "fsync", sync)

    def fill(self):
        self.full = True
        self.log.rename(self.log.with_suffix(".aside"))
        # Takes no byte, as a log on a full disk.
        self.log.symlink_to("/dev/full")

    def clear(self):
        self.full = False
        self.log.unlink()
        self.log.with_suffix(".aside").rename(self.log)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_disk_that_is_full_for_a_while_loses_nothing(run, tmp_path, monkeypatch):
    disk = Disk(monkeypatch, tmp_path / "a.jsonl")
    warnings, kept = [], {}

    def report(line):
        if line.step == 5:
            disk.fill()
        if line.step == 8:
            kept.update(tensors(tmp_path / "a.checkpoint"), step=about(tmp_path / "a.checkpoint")["step"])
            disk.clear()

    assert run(report=report, warn=warnings.append, save_every=0.0)
    run("whole")

    assert warnings
    assert all("No space left on device" in text for text in warnings)
    assert kept["step"] == "4"
    one, other = tensors(tmp_path / "a.safetensors"), tensors(tmp_path / "whole.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [line["step"] for line in log_of(tmp_path / "a.jsonl")] == [1, 2, 3, 4, 5, 9, 10, 11, 12, 12]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("save_every", [0.0, 1e9], ids=["at the next save", "at the end"])
def test_a_failed_constant_checkpoint_is_written_later(run, tmp_path, monkeypatch, save_every):
    disk = Disk(monkeypatch, tmp_path / "a.jsonl")
    recipe = replace(RECIPE, decay=0.5)
    warnings, existed = [], []

    def report(line):
        if line.step == 6:
            disk.fill()
        if line.step == 7:
            disk.clear()
        if line.step == 8:
            existed.append((tmp_path / "a.constant.checkpoint").exists())

    run(recipe=recipe, report=report, warn=warnings.append, save_every=save_every)
    run("whole", recipe)

    assert warnings
    assert existed == [save_every == 0]
    assert about(tmp_path / "a.constant.checkpoint")["step"] == "7"
    one, other = (tensors(tmp_path / f"{name}.constant.checkpoint") for name in ("a", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_disk_that_stays_full_leaves_the_last_save_whole(run, tmp_path, monkeypatch):
    disk = Disk(monkeypatch, tmp_path / "a.jsonl")

    with pytest.raises(OSError, match="No space left"):
        run(report=at(5, disk.fill), warn=lambda text: None, save_every=0.0)

    assert about(tmp_path / "a.checkpoint")["step"] == "4"
    assert checkpoint.load(tmp_path / "a.safetensors").metadata["steps"] == "4"
    assert not list(tmp_path.glob("*.part"))
    disk.clear()
    assert run(resume=True)


def test_a_run_that_diverges_keeps_the_last_good_weights(run, tmp_path, monkeypatch):
    draw = sources.GeneratedPairs.draw

    def poisoned(source, step, count, rng):
        drawn = draw(source, step, count, rng)
        return drawn._replace(target=drawn.target + torch.nan) if step == 7 else drawn

    monkeypatch.setattr(sources.GeneratedPairs, "draw", poisoned)
    with pytest.raises(Diverged, match=r"the loss at step 7 is nan: lower lr .* the last good weights are kept"):
        run(save_every=0.0)

    model = checkpoint.load(tmp_path / "a.safetensors")
    assert model.metadata["steps"] == "6"
    assert model.net.forward(torch.rand(1, 8, 8, 3)).isfinite().all()
    assert about(tmp_path / "a.checkpoint")["step"] == "6"


def test_weights_that_are_not_finite_are_never_saved(run, tmp_path, monkeypatch):
    update = ParameterEMA.update

    def poisoned(average):
        update(average)
        if average.updates == 7:
            average.parameters[0].value[0, 0] = torch.nan

    monkeypatch.setattr(ParameterEMA, "update", poisoned)
    with pytest.raises(Diverged, match="a weight is not a finite number after step 7; the last save is kept"):
        run(save_every=0.0)

    assert about(tmp_path / "a.checkpoint")["step"] == "6"
    assert checkpoint.load(tmp_path / "a.safetensors").metadata["steps"] == "6"


def test_a_checkpoint_is_not_overwritten_by_a_new_run(run, tmp_path):
    run()
    before = (tmp_path / "a.checkpoint").read_bytes()

    with pytest.raises(
        ValueError, match=r"a.checkpoint exists: resume that run, or remove the file to start a new one"
    ):
        run()

    assert (tmp_path / "a.checkpoint").read_bytes() == before


def test_a_run_is_not_resumed_with_another_recipe(run):
    run()

    with pytest.raises(ValueError, match=r"the run began with another recipe; these differ: lr, seed$"):
        run(recipe=replace(RECIPE, lr=0.1, seed=4), resume=True)


def test_a_run_is_not_resumed_with_other_data(run, recorded):
    run()

    with pytest.raises(ValueError, match=r"the run began with other data, holiday; got recorded.pkl$"):
        run(data=(recorded,), resume=True)


def test_older_weights_are_kept_until_the_run_has_ended(run, tmp_path):
    out = tmp_path / "a.safetensors"
    run("good")
    (tmp_path / "good.safetensors").replace(out)
    good = out.read_bytes()

    run(report=at(9, stop), save_every=0.0)
    stopped = out.read_bytes()
    run(resume=True)

    assert stopped == good
    assert checkpoint.load(out).metadata["steps"] == "12"
    assert out.read_bytes() != good


def test_a_stopped_run_leaves_its_own_weights_as_they_are_then(run, tmp_path):
    run(report=at(5, stop))
    first = checkpoint.load(tmp_path / "a.safetensors").metadata["steps"]
    run(report=at(9, stop), resume=True)

    assert first == "5"
    assert checkpoint.load(tmp_path / "a.safetensors").metadata["steps"] == "9"


def test_nothing_is_saved_while_the_loss_rises(run, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(loop.DivergenceMonitor, "rising", property(lambda monitor: 3 <= monitor.steps < 8))
    monkeypatch.setattr(Trainer, "_save", lambda trainer, ended=False: saved.append(trainer.state.step))

    run(save_every=0.0)

    assert not set(range(3, 8)) & set(saved)
    assert {1, 2, 8} <= set(saved)


def test_there_must_be_a_checkpoint_to_resume_from(run):
    with pytest.raises(ValueError, match=r"a.checkpoint: no checkpoint to resume from: .*No such file"):
        run(resume=True)


def test_a_checkpoint_that_is_broken_is_refused(run, tmp_path):
    run()
    path = tmp_path / "a.checkpoint"
    path.write_bytes(path.read_bytes()[:500])

    with pytest.raises(ValueError, match=r"a.checkpoint: no checkpoint to resume from"):
        run(resume=True)


def test_a_file_that_is_no_checkpoint_is_refused(run, tmp_path):
    run()
    (tmp_path / "a.safetensors").replace(tmp_path / "a.checkpoint")

    with pytest.raises(ValueError, match=r"format 'denoise-1'; this version reads 'denoise-checkpoint-1'"):
        run(resume=True)


def test_the_weights_have_the_suffix_that_the_service_looks_for(tmp_path):
    with pytest.raises(ValueError, match=r"the weights' name must end in .safetensors; got a.pt"):
        trainer.run(TrainingJob(RECIPE, tmp_path / "a.pt"), print, print)
