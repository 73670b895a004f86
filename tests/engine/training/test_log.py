import json

import pytest

from engine.training.log import LogLine, TrainingLog, read_log


def line(step, psnr=None):
    return LogLine(step, 1.5, 0.1, 0.2, 0.05, 0.006, psnr, 3.0)


def test_a_line_is_written_without_the_values_it_lacks(tmp_path):
    log = TrainingLog(tmp_path / "runs" / "a.jsonl", None)

    log.append(line(1))
    log.append(line(2, psnr=20.5))

    first, second = read_log(tmp_path / "runs" / "a.jsonl")
    assert "psnr" not in first
    assert second["psnr"] == 20.5
    assert second.keys() - first.keys() == {"psnr"}


def test_a_new_log_is_empty_and_a_resumed_one_ends_at_its_step(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"step": n, "loss": 1, "megapixels": n}) + "\n" for n in range(5)) + '{"st'
    )

    TrainingLog(path, 2)
    resumed = read_log(path)
    TrainingLog(path, None)

    assert [line["step"] for line in resumed] == [0, 1, 2]
    assert read_log(path) == []


def test_a_log_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"none\.jsonl: not a training log: .*No such file"):
        read_log(tmp_path / "none.jsonl")
