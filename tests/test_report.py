"""The report: self-contained, the same bytes, one run or several."""

import json
import re

import pytest

from quickstudy.cli import main
from quickstudy.config import ConfigError
from quickstudy.recipes import configure
from quickstudy.report.page import command, report

SMALL = ["--meta-steps", "6", "--meta-batch", "4", "--test-tasks", "10", "--quiet"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        main(
            ["train", "sinusoid-maml", *SMALL, "--hidden", "8", "--seed", str(seed), "--out", str(base / f"sine{seed}")]
        )
    main(
        [
            "train",
            "bandit-rl2",
            *SMALL,
            "--minibatches",
            "2",
            "--size",
            "8",
            "--pulls",
            "4",
            "--out",
            str(base / "bandit"),
        ]
    )
    main(
        ["train", "navigation-maml", *SMALL, "--trajectories", "3", "--hidden", "8", "--out", str(base / "navigation")]
    )
    return base


@pytest.mark.parametrize("name", ["sine0", "bandit", "navigation"])
def test_a_report_is_one_file_without_a_network(runs, name):
    text = (runs / name / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", text)
    assert "<script" not in text and "@import" not in text
    for heading in (
        "Adaptation to tasks it has never seen",
        "The worst and the best",
        "Meta-training",
        "Make it again",
    ):
        assert heading in text
    assert {p.name for p in (runs / name).glob("*.png")} == {"adaptation.png", "tasks.png", "training.png"}


def test_the_same_folder_gives_the_same_bytes(runs, tmp_path):
    files = {}
    for out in (tmp_path / "a", tmp_path / "b"):
        report([runs / "sine0", runs / "sine1"], out)
        files[out.name] = {p.name: p.read_bytes() for p in out.iterdir()}
    assert files["a"] == files["b"]


def test_seeds_are_pooled_and_methods_stand_side_by_side(runs, tmp_path):
    text = report([runs / "sine0", runs / "sine1", runs / "navigation"], tmp_path).read_text()
    assert "sinusoid-maml, seed 1" in text and "navigation-maml" in text


def test_the_command_makes_the_run_again(runs):
    about = json.loads((runs / "sine0" / "run.json").read_text())
    words = command(about).split()
    assert words[:3] == ["quickstudy", "train", "sinusoid-maml"]
    assert "--meta-steps 6" in command(about) and "--hidden 8" in command(about)
    assert "--shots" not in command(about)
    assert configure("sinusoid-maml", about["config"]).hidden == 8


def test_a_configuration_with_a_typo_names_it():
    with pytest.raises(ConfigError, match="did you mean 'inner_rate'"):
        configure("sinusoid-maml", {"inner_rat": 0.1})
    with pytest.raises(ConfigError, match="shots must be of type int"):
        configure("sinusoid-maml", {"shots": "five"})


def test_intervals_are_seeded_and_cover():
    import numpy as np

    from quickstudy import stats

    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    assert stats.interval(values) == stats.interval(values)
    low, high = stats.interval(values)
    assert low < values.mean() < high and 0.15 < high - low < 0.25  # 2 · 1.96/√400 = 0.196
    assert stats.iqm(np.array([0.0, 1, 2, 3, 4, 5, 6, 100])) == pytest.approx(3.5)
    seeds = np.stack([values, values + 1, values - 1])
    wide = stats.interval_over_seeds(seeds)
    assert wide[1] - wide[0] > high - low
