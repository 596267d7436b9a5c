"""The pictures of a report: legends that cover nothing, colours that can be told apart, nothing drawn of too little."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from quickstudy.evaluate.config import Drawing
from quickstudy.report import behaviour as measured
from quickstudy.report import traces
from quickstudy.report.adaptation import Curve, adaptation
from quickstudy.report.drawings import behaviour, overview, tasks
from quickstudy.report.drawings.arrays import Unfit, check
from quickstudy.report.style import COLOURS, drawing, of_baseline, of_run, plain, to_svg
from quickstudy.report.training import Log, in_words, training

RNG = np.random.default_rng(0)


def points(values, adaptations=None):
    return [
        {"adaptations": a, "mean": float(v), "ci": [v - 0.1, v + 0.1]}
        for a, v in zip(adaptations or range(len(values)), values, strict=True)
    ]


def curves(num, baselines=3, metric="query MSE"):
    theirs = {f"a baseline with a long name {i}": points([3.0 - i / 9] * 4) for i in range(baselines)}
    return [
        Curve(f"run {i}", metric, "steps", points([3, 2, 1, 1 + i / 9]), {**theirs, "oracle": 0.5}) for i in range(num)
    ]


def logs(num, validations=5):
    metrics = [{"step": s, "loss": 1 / s, "gradient_norm": 1.0 + s, "return": s} for s in range(1, 20)]
    validation = [{"step": s, "curve": points([3, 2, 1, 1 / s])} for s in range(1, 1 + validations)]
    return [Log(f"run {i}", metrics, validation, "return per step") for i in range(num)]


def of_tasks(kind):
    """Random arrays of the kind's shapes."""
    lengths = {"tasks": 5, "height": 6, "width": 6, "cells": 9, "stages": 3, "moments": 4, "episodes": 2}
    arrays = {}
    for name, shape in {**tasks.KINDS[kind].shapes, "value": "tasks"}.items():
        words, _, bound = shape.partition(" < ")
        shape = [int(word) if word.isdigit() else lengths.get(word, 4) for word in words.split()]
        arrays[name] = RNG.integers(lengths.get(bound, 4), size=shape) if bound else RNG.random(shape)
    if kind == "belief":
        arrays["moments"] = np.tile([0, 2, 5], (5, 1))
    return arrays


def agents(kind, num=3):
    return {
        f"agent {i}": {name: points([0.2, 0.4, 0.6, 0.8]) for name in behaviour.KINDS[kind].names} for i in range(num)
    }


FIGURES = {
    **{f"adaptation {n}": lambda n=n: adaptation(curves(n)) for n in (1, 3, 9)},
    "adaptation of two metrics": lambda: adaptation(curves(2) + curves(1, metric="accuracy")),
    **{f"training {n}": lambda n=n: training(logs(n)) for n in (1, 4)},
    **{f"tasks {kind}": lambda kind=kind: tasks.tasks(kind, of_tasks(kind), "score") for kind in tasks.KINDS},
    **{f"behaviour {kind}": lambda kind=kind: behaviour.behaviour(kind, agents(kind)) for kind in behaviour.KINDS},
    "overview": lambda: overview.overview(
        "generated policies",
        {"parameter": RNG.random((9, 2)), "generated": RNG.random((9, 5, 2)), "correction": RNG.random((9, 5))},
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_legend_covers_data_or_is_searched_a_place_for(name):
    figure = FIGURES[name]()
    with drawing():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        legends = [(ax.get_legend(), ax) for ax in figure.axes if ax.get_legend()]
        legends += [(legend, None) for legend in figure.legends]
        assert legends or not any(ax.get_legend_handles_labels()[0] for ax in figure.axes)
        for legend, _ in legends:
            assert legend._loc != 0  # "best", which takes long and warns of it
            box = legend.get_window_extent()
            for ax in figure.axes:
                assert not box.overlaps(ax.get_window_extent())
    assert to_svg(figure).startswith("<svg")


def seen(colour, blindness):
    """CIE Lab of a colour as it is seen (Machado, Oliveira and Fernandes 2009, severity 1)."""
    matrix = {
        "normal": np.eye(3),
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ],
    }[blindness]
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(matrix) @ linear, 0, 1)
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]] @ linear / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("blindness", ["normal", "protanopia", "deuteranopia"])
def test_colours_can_be_distinguished_by_everybody(blindness):
    for one, other in itertools.combinations(COLOURS, 2):
        assert np.linalg.norm(seen(one, blindness) - seen(other, blindness)) > 15, (one, other)


def test_no_two_lines_of_a_picture_look_alike():
    for runs, baselines in ((1, 12), (3, 9), (6, 12), (9, 8)):
        looks = [of_run(i) for i in range(runs)] + [of_baseline(i, runs) for i in range(baselines)]
        assert len({str(sorted(look.items())) for look in looks}) == len(looks)


def test_the_oracle_and_the_true_curve_are_drawn():
    labels = lambda ax: {line.get_label(): line for line in ax.get_lines()}
    [ax] = adaptation(curves(1)).axes
    assert list(labels(ax)["oracle"].get_ydata()) == [0.5, 0.5]
    arrays = of_tasks("fits")
    figure = tasks.tasks("fits", arrays, "query MSE")
    for i, ax in enumerate(figure.axes):
        np.testing.assert_array_equal(labels(ax)["truth"].get_ydata(), arrays["truth"][i])


def test_too_few_points_are_noted_and_not_drawn():
    assert [ax.get_title() for ax in training(logs(1, 1)).axes] == ["return in training", "loss", "gradient norm"]
    assert in_words(logs(1, 1)) == [
        "run 0: held-out return per step at meta-step 1: 3 before adaptation, 1 after 3 adaptations."
    ]
    assert "held-out return per step" in [ax.get_title() for ax in training(logs(1, 3)).axes]
    assert in_words(logs(1, 3)) == [] and in_words(logs(1, 0)) == []
    empty = Log("run", [{"step": 1, "loss": 1.0}], [], "score")
    assert training([empty]) is None


def test_a_validation_that_reached_fewer_points_is_drawn():
    lines = [{"step": s, "curve": points([1.0, 0.9][: 1 + s % 2])} for s in range(1, 8)]
    *_, ax = training([Log("run", [], lines, "query MSE")]).axes
    assert {len(line.get_xdata()) for line in ax.get_lines()} == {7, 4}


def test_metrics_that_differ_have_panels_of_their_own():
    figure = adaptation(curves(1) + curves(1, metric="accuracy"))
    assert [ax.get_ylabel() for ax in figure.axes] == ["query MSE, held-out tasks", "accuracy, held-out tasks"]
    other = [*logs(1), Log("run", [], logs(1)[0].validation, "accuracy")]
    assert [ax.get_title() for ax in training(other).axes][-2:] == ["held-out return per step", "held-out accuracy"]


def test_every_kind_that_is_recorded_can_be_drawn():
    declared = lambda module: {value.kind for value in vars(module).values() if isinstance(value, Drawing)}
    of_one = declared(traces) | {traces.models(lambda task: ()).kind}
    assert of_one == set(tasks.KINDS)
    assert {traces.generated_policies(lambda tasks: tasks).kind} == set(overview.KINDS)
    assert declared(measured) == set(behaviour.KINDS)


def test_an_unknown_kind_is_not_drawn_and_wrong_arrays_are_named():
    assert tasks.tasks("something else", {}, "score") is None and overview.overview("something else", {}) is None
    assert behaviour.behaviour("something else", {"a": {}}) is None and behaviour.behaviour("regret", {}) is None
    arrays = of_tasks("arms")
    for name, wrong, said in (
        ("actions", arrays["actions"] + 4, "actions must hold whole numbers from 0 to 3"),
        ("actions", arrays["actions"].astype(float), "actions must hold whole numbers"),
        ("rewards", arrays["rewards"][:, 1:], "rewards has 3 pulls where 4 are expected"),
        (
            "rewards",
            arrays["rewards"][..., None],
            r"rewards is float64\[5, 4, 1\], and must be numbers \[tasks, pulls\]",
        ),
    ):
        with pytest.raises(Unfit, match=said):
            tasks.tasks("arms", {**arrays, name: wrong}, "score")
    with pytest.raises(Unfit, match="goal is missing"):
        check({}, {"goal": "tasks 2"})
    with pytest.raises(Unfit, match="agent 0 has no regret"):
        behaviour.behaviour("regret", {"agent 0": {"stays": []}})


def test_labels_are_plain_text():
    assert plain("a\nb\x1b[31m\ud800") == "a b [31m " and len(plain("x" * 999)) == 60
    [curve] = curves(1)
    text = to_svg(adaptation([Curve("$\\frac{ </svg><script>--> 漢", "a $b$ c", "steps", curve.points, {})]))
    assert "<script" not in text and "-->" not in text and "<!--" not in text
