"""The report: self-contained, the same bytes, one run or several."""

import dataclasses
import json
import re

import pytest

from quickstudy.cli.main import main
from quickstudy.config import ConfigError
from quickstudy.recipes import configure
from quickstudy.report.figures import adaptation_curve, training_curves
from quickstudy.report.page import Run, _curve, _groups, _label, _page, _rulers, command, report

SMALL = ["--meta-steps", "6", "--meta-batch", "4", "--test-tasks", "10", "--quiet"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        main(
            [
                "train",
                "sinusoid-maml",
                *SMALL,
                "--hidden-size",
                "8",
                "--seed",
                str(seed),
                "--out",
                str(base / f"sine{seed}"),
            ]
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
        [
            "train",
            "navigation-maml",
            *SMALL,
            "--trajectories",
            "3",
            "--hidden-size",
            "8",
            "--out",
            str(base / "navigation"),
        ]
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
    assert "--meta-steps 6" in command(about) and "--hidden-size 8" in command(about)
    assert "--shots" not in command(about)
    assert configure("sinusoid-maml", about["config"]).tasks.hidden_size == 8


def test_a_configuration_with_a_typo_names_it():
    with pytest.raises(ConfigError, match="did you mean 'inner_rate'"):
        configure("sinusoid-maml", {"inner_rat": 0.1})
    with pytest.raises(ConfigError, match="shots must be of type int"):
        configure("sinusoid-maml", {"shots": "five"})


def test_intervals_are_seeded_and_cover():
    import numpy as np

    from quickstudy.evaluate import statistics as stats

    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    assert stats.interval(values) == stats.interval(values)
    low, high = stats.interval(values)
    assert low < values.mean() < high and 0.15 < high - low < 0.25  # 2 · 1.96/√400 = 0.196
    assert stats.iqm(np.array([0.0, 1, 2, 3, 4, 5, 6, 100])) == pytest.approx(3.5)


def test_an_interval_over_few_seeds_covers_the_mean_as_often_as_it_says():
    import numpy as np

    from quickstudy.evaluate import statistics as stats

    rng = np.random.default_rng(0)
    drawn = lambda: rng.normal(size=(3, 1)) + rng.normal(size=(1, 30)) + 0.5 * rng.normal(size=(3, 30))
    intervals = [stats.interval_over_seeds(drawn()) for _ in range(400)]
    assert 0.9 < np.mean([low < 0 < high for low, high in intervals]) < 0.98
    alike = np.tile(rng.normal(size=(1, 400)), (3, 1))  # seeds that do not differ: that of the tasks alone
    np.testing.assert_allclose(stats.interval_over_seeds(alike), stats.interval(alike[0]), atol=0.02)
    assert stats.interval_over_seeds(np.ones((2, 5))) == (1.0, 1.0)


def read(folder, **changes):
    """A run as a report reads it, something in its evaluation changed."""
    run = Run.read(folder)
    assert run.evaluation is not None
    return dataclasses.replace(run, evaluation={**run.evaluation, **changes})


def test_runs_are_told_apart_by_what_they_differ_in(runs):
    first, second = Run.read(runs / "sine0"), Run.read(runs / "sine1")
    config = {**second.about["config"], "shots": 7}
    other = dataclasses.replace(second, about={**second.about, "config": config})
    both = [first, other]
    assert [_label(run, both) for run in both] == ["sinusoid-maml, seed 0, shots=5", "sinusoid-maml, seed 1, shots=7"]
    assert [len(group) for group in _groups(both)] == [1, 1]
    assert [_label(run, [first, first]) for run in (first,)] == ["sinusoid-maml"]


def test_only_what_was_tested_alike_is_pooled(runs):
    first, second = Run.read(runs / "sine0"), Run.read(runs / "sine1")
    assert [len(group) for group in _groups([first, second])] == [2]
    assert [len(group) for group in _groups([first, read(runs / "sine1", step=3)])] == [1, 1]
    fewer = dataclasses.replace(second, arrays={**second.arrays, "curves": second.arrays["curves"][:4]})
    assert [len(group) for group in _groups([first, fewer])] == [1, 1]


def test_tasks_that_some_seed_lost_are_counted_in_the_label(runs):
    first, second = Run.read(runs / "sine0"), Run.read(runs / "sine1")
    curves = second.arrays["curves"].copy()
    curves[2] = float("nan")
    lost = dataclasses.replace(second, arrays={**second.arrays, "curves": curves})
    assert _curve([first, lost], [first, lost])["label"] == "sinusoid-maml (2 seeds, 1 of 10 tasks left out)"


def test_what_has_to_be_said_of_a_test_is_on_the_page(runs):
    run = read(runs / "sine0", note="transductive: a query is told of the others", diverged=[1, 4])
    page = _page([run], {"adaptation": adaptation_curve([_curve([run], [run])])})
    assert "transductive: a query is told of the others." in page
    assert "2 of 10 held-out tasks were not finite and are left out" in page


def test_each_metric_has_a_panel_and_a_table(runs):
    both = [Run.read(runs / "sine0"), Run.read(runs / "navigation")]
    figure = adaptation_curve([_curve([run], both) for run in both])
    assert [ax.get_ylabel() for ax in figure.axes] == ["query MSE on held-out tasks", "return on held-out tasks"]
    assert _rulers(both, both).count("<table>") == 2


def test_a_validation_that_reached_fewer_points_is_drawn(runs):
    run = Run.read(runs / "sine0")
    point = lambda adaptations: {"adaptations": adaptations, "mean": 1.0}
    lines = [{"step": 2, "curve": [point(0), point(1)]}, {"step": 4, "curve": [point(0)]}]
    training_curves([{"label": "it", "metrics": run.metrics, "validation": lines, "metric": "query MSE"}])
