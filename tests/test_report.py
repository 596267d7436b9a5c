"""The report: self-contained, without scripts, the same bytes; one run, or several beside each other."""

import contextlib
import dataclasses
import html.parser
import json
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy

import quickstudy
from quickstudy.cli.main import main
from quickstudy.config import ConfigError, Training
from quickstudy.evaluate import statistics as stats
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.learners.gradient.maml import Gradient
from quickstudy.meta_optimizers.backprop import Backprop
from quickstudy.objectives.few_shot import FewShot
from quickstudy.recipes import configure
from quickstudy.report.again import commands
from quickstudy.report.content import tables, tiles
from quickstudy.report.grouping import groups, label, refusal, within
from quickstudy.report.numbers import numbers
from quickstudy.report.page import default_folder, render, report
from quickstudy.report.pairing import differences
from quickstudy.report.reading import Run
from quickstudy.runs import CheckpointRefused, RunFolder, reader, sha256

SMALL = ["--meta-steps", "6", "--meta-batch", "4", "--test-tasks", "10", "--quiet"]


def train(folder, recipe, *words):
    main(["train", recipe, *SMALL, *words, "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    for seed in ("0", "1"):
        train(base / f"sine{seed}", "sinusoid-maml", "--hidden-size", "8", "--seed", seed)
    train(base / "slow", "sinusoid-maml", "--hidden-size", "8", "--inner-rate", "0.001")
    train(base / "bandit", "bandit-rl2", "--minibatches", "2", "--memory-size", "8", "--pulls", "4")
    train(base / "navigation", "navigation-maml", "--trajectories", "3", "--hidden-size", "8")
    return base


def copied(run, to):
    shutil.copytree(run, to)
    return to


def rewritten(folder, of_run=lambda run: run, of_test=lambda test: test, arrays=None):
    """The folder with other contents, signed anew, as somebody would who means harm."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # whose sums would tell
    run, test = (json.loads((folder / name).read_text()) for name in ("run.json", "evaluation.json"))
    run, test = of_run(run), of_test(test)
    if arrays is not None:
        data = safetensors.numpy.save(arrays)
        (folder / "evaluation.safetensors").write_bytes(data)
        test["arrays"] = {"bytes": len(data), "sha256": sha256(data)}
    with contextlib.suppress(KeyError, TypeError, AttributeError):  # it will be refused for that
        checkpoint = {"files": {"state.safetensors": {"sha256": test["belongs"]["checkpoint"]}}}
        test["belongs"] = reader.belongs(run, checkpoint)
    for name, value in (("run.json", run), ("evaluation.json", test)):
        if isinstance(value, dict):
            value.pop(reader.SIGNED, None)
            value = reader.signed(value)
        (folder / name).write_text(json.dumps(value))
    return folder


def read(folder, **changes):
    """A run as a report reads it, something in its evaluation changed."""
    run = Run.read(folder)
    return dataclasses.replace(run, evaluation={**run.test, **changes})


def page_of(runs):
    """The page without its pictures."""
    return render(runs, {}, [], [])


# --- the page ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sine0", "bandit", "navigation"])
def test_a_report_is_one_file_without_scripts_or_a_network(runs, name):
    text = (runs / name / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", text)
    assert "<script" not in text and "@import" not in text
    assert "default-src 'none'" in text and "script-src" not in text
    for heading in (
        "Adaptation to tasks it has never seen", "The worst and the best", "Meta-training", "Make it again"
    ):  # fmt: skip
        assert heading in text
    assert {p.name for p in (runs / name).glob("*.png")} == {"adaptation.png", "tasks.png", "training.png"}


def test_the_same_folder_gives_the_same_bytes(runs, tmp_path):
    files = {}
    for out in (tmp_path / "a", tmp_path / "b"):
        report([runs / "sine0", runs / "sine1"], out)
        files[out.name] = {p.name: p.read_bytes() for p in out.iterdir()}
    assert files["a"] == files["b"]


TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "b", "small", "span", "table", "tr", "th",
    "td", "details", "summary", "pre", "figure", "ul", "li", "footer", "svg", "g", "path", "defs", "clippath", "rect",
    "use", "image",
}  # fmt: skip


class Markup(html.parser.HTMLParser):
    """What stands in a page: its tags, their attributes, and the text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.said = set(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.said.append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data[:80]}")


def hostile(value, number):
    """`value` with every text in it replaced by one that would be markup, and a formula to matplotlib."""
    if isinstance(value, dict):
        return {key: hostile(one, number) for key, one in value.items()}
    if isinstance(value, list):
        return [hostile(one, number) for one in value]
    if not isinstance(value, str):
        return value
    number.append(len(number))
    markup = f"""</title></style></svg>--><x{number[-1]} onload=e()>'"><script>e({number[-1]})</script>"""
    return markup + "{{7*7}}$\\frac{$"


def test_hostile_text_in_every_field_is_text_in_the_page(runs, tmp_path):
    folder, number = copied(runs / "bandit", tmp_path / "<img src=x onerror=e()>"), []

    def of_run(run):
        changed = {**hostile(run, number), "id": run["id"], "config": dict(run["config"])}
        changed["config"][hostile("", number)] = changed["fingerprint"][hostile("", number)] = hostile("", number)
        return changed

    def of_test(test):
        changed = {**hostile(test, number), "belongs": test["belongs"], "arrays": test["arrays"]}
        changed["baselines"] = {hostile("", number): one for one in changed["baselines"].values()}
        return {**changed, "drawings": test["drawings"]}  # the kinds say what is drawn

    rewritten(folder, of_run, of_test)
    lines = [hostile(json.loads(line), number) for line in (folder / "validation.jsonl").read_text().splitlines()]
    (folder / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = report([folder, runs / "sine0"], tmp_path / "out").read_text()
    markup = Markup(page)
    assert markup.tags <= TAGS
    for attribute, value in markup.attributes:
        assert not attribute.startswith("on")
        if attribute in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:image/png"))
    said = "".join(markup.said)
    assert said.count("<script>e(") > 20 and "{{7*7}}" in said
    assert page.count("Content-Security-Policy") == 1


def test_a_text_where_a_number_belongs_is_refused_and_named(runs, tmp_path):
    def of_test(test):
        test["curve"][1]["adaptations"] = "<script>e()</script>"
        return test

    folder = rewritten(copied(runs / "sine0", tmp_path / "run"), of_test=of_test)
    with pytest.raises(CheckpointRefused, match=r"evaluation.json .*curve\[1\].adaptations must be an integer"):
        report([folder])


def places(value):
    """Every place of a value, of lists the first two, as (container, key)."""
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 2)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def test_what_is_not_as_it_must_be_is_refused_and_all_else_makes_a_page(runs, tmp_path):
    """Every place of both files, with a value of each kind in it."""
    folder = copied(runs / "bandit", tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    run, test = (json.loads((folder / name).read_text()) for name in ("run.json", "evaluation.json"))
    outcomes = []
    for changed, value in (("of_run", run), ("of_test", test)):
        for container, key in list(places(value)):
            before = container[key]
            for kind in (None, -1, 2.5, "text", [], {"a": 1}):
                container[key] = kind
                rewritten(folder, **{"of_run": lambda _: {**run}, "of_test": lambda _: {**test}})
                try:
                    page_of([Run.read(folder)])
                    outcomes.append("made")
                except CheckpointRefused as error:
                    named = "run.json" in str(error) or "evaluation" in str(error)
                    outcomes.append("refused" if named else f"{changed} {key}: {error}")
            container[key] = before
    assert set(outcomes) == {"made", "refused"}
    assert outcomes.count("made") > 100 and outcomes.count("refused") > 300


@pytest.mark.parametrize("changed", ["values", "tasks", "drawing/tasks/actions", "drawing/tasks/rewards"])
def test_arrays_that_do_not_fit_are_refused_or_not_used(runs, tmp_path, changed):
    folder = copied(runs / "bandit", tmp_path / "run")
    arrays = safetensors.numpy.load((folder / "evaluation.safetensors").read_bytes())
    for wrong in (arrays[changed][:-1], arrays[changed][None], arrays[changed][..., :0]):
        rewritten(folder, arrays={**arrays, changed: np.ascontiguousarray(wrong)})
        if changed == "tasks":
            assert "test it again" in refusal(Run.read(folder), Run.read(runs / "bandit"))
        else:
            with pytest.raises(CheckpointRefused, match=r"evaluation\.safetensors"):
                report([folder])
    arrays["drawing/tasks/actions"] = arrays["drawing/tasks/actions"] + 99
    with pytest.raises(CheckpointRefused, match="actions must hold whole numbers from 0 to 4"):
        report([rewritten(folder, arrays=arrays)])


def test_a_report_imports_no_recipe(runs, tmp_path):
    folder, ran = copied(runs / "sine0", tmp_path / "run"), tmp_path / "ran"
    own = folder / "own.py"
    own.write_text(f"open({str(ran)!r}, 'w')\n")
    page = report([rewritten(folder, lambda run: {**run, "recipe": f"{own}:Own"})]).read_text()
    assert "own.py:Own" in page and not ran.exists()


# --- several runs -------------------------------------------------------------------------------------------------


def test_a_comparison_leaves_the_reports_of_its_runs_as_they_are(runs, tmp_path):
    one, other = copied(runs / "sine0", tmp_path / "A"), copied(runs / "slow", tmp_path / "B")
    before = {file: file.read_bytes() for folder in (one, other) for file in folder.rglob("*") if file.is_file()}
    page = report([one, other])
    assert page == tmp_path / "report-A-B" / "report.html"
    assert all(file.read_bytes() == data for file, data in before.items())
    assert report([one]) == one / "report.html"
    assert default_folder([tmp_path / "x" / "run", tmp_path / "y" / "run"]).name == "report-x-run-y-run"
    many = [tmp_path / f"a-run-with-a-rather-long-name-{i}" for i in range(9)]
    assert len(default_folder(many).name) < 100 and default_folder(many) != default_folder(many[:8])


def test_two_runs_are_compared_on_the_same_tasks(runs, capsys):
    values = [Run.read(runs / name).arrays["values"] for name in ("sine0", "slow")]
    difference = values[0] - values[1]
    capsys.readouterr()
    main(["report", str(runs / "sine0"), str(runs / "slow"), "--json"])
    said = json.loads(capsys.readouterr().out)
    [pair] = said["differences"]
    assert (pair["mean"], pair["n"]) == (pytest.approx(difference.mean()), 10)
    assert pair["ci"] == pytest.approx(list(stats.interval(difference)))
    assert (pair["ours"], pair["theirs"]) == ("sinusoid-maml, inner_rate=0.01", "sinusoid-maml, inner_rate=0.001")
    stored = json.loads((runs / "sine0" / "evaluation.json").read_text())
    for name in ("score", "ci", "n", "curve", "baselines"):
        assert said["runs"][0]["test"][name] == stored[name]
    page = (runs / "report-sine0-slow" / "report.html").read_text()
    assert said["report"].endswith("report-sine0-slow/report.html") and "Run against run" in page


def test_runs_are_not_compared_where_tasks_or_metrics_differ(runs, tmp_path):
    sine = Run.read(runs / "sine0")
    assert refusal(sine, Run.read(runs / "slow")) is None
    assert "query MSE, the other for return" in refusal(sine, Run.read(runs / "navigation"))
    fewer = copied(runs / "slow", tmp_path / "fewer")
    main(["evaluate", str(fewer), "--tasks", "6", "--quiet"])
    [pair] = differences(groups([sine, Run.read(fewer)]))
    assert pair.n == 6 and not pair.refused  # the first six of ten are the same
    other = train(tmp_path / "other", "sinusoid-maml", "--hidden-size", "8", "--shots", "4")
    both = [sine, Run.read(other)]
    assert refusal(*both) == "their held-out tasks are not the same"
    assert "not compared: their held-out tasks are not the same" in page_of(both)
    [pair] = numbers(both)["differences"]
    assert "mean" not in pair and pair["refused"]
    lost = dataclasses.replace(sine, arrays={"values": sine.arrays["values"]})
    assert "test it again" in refusal(lost, both[1])


def test_an_interval_of_a_difference_counts_seeds_and_tasks():
    rng = np.random.default_rng(0)

    def drawn():
        tasks = rng.normal(size=(1, 40))
        seeds = lambda num: rng.normal(size=(num, 1)) + 0.5 * rng.normal(size=(num, 40)) + tasks
        return seeds(3), seeds(4)

    intervals = [stats.interval_of_difference(*drawn()) for _ in range(400)]
    assert 0.9 < np.mean([low < 0 < high for low, high in intervals]) < 0.99
    ours, theirs = rng.normal(size=(1, 50)), rng.normal(size=(1, 50))
    assert stats.interval_of_difference(ours, theirs) == stats.interval(ours[0] - theirs[0])


def test_seeds_are_pooled_and_methods_stand_side_by_side(runs, tmp_path):
    text = report([runs / "sine0", runs / "sine1", runs / "navigation"], tmp_path).read_text()
    assert "sinusoid-maml, seed 1" in text and "sinusoid-maml (2 seeds)" in text and "navigation-maml" in text
    together = numbers([Run.read(runs / name) for name in ("sine0", "sine1")])
    [pooled] = together["groups"]
    assert pooled["score"] == pytest.approx(np.mean([run["test"]["score"] for run in together["runs"]]))
    [pair] = together["differences"]  # of one group, the difference of its runs
    assert (pair["ours"], pair["theirs"]) == ("sinusoid-maml, seed 0", "sinusoid-maml, seed 1")


def test_runs_are_named_by_what_they_differ_in(runs):
    first, second = Run.read(runs / "sine0"), Run.read(runs / "sine1")
    config = {**second.about["config"], "shots": 7}
    other = dataclasses.replace(second, about={**second.about, "config": config})
    both = [first, other]
    assert [label(run, both) for run in both] == ["sinusoid-maml, seed 0, shots=5", "sinusoid-maml, seed 1, shots=7"]
    assert [len(group.runs) for group in groups(both)] == [1, 1]
    assert label(first, [first, first]) == "sinusoid-maml"


def test_only_what_was_tested_alike_is_pooled(runs):
    first, second = Run.read(runs / "sine0"), Run.read(runs / "sine1")
    sizes = lambda *these: [len(group.runs) for group in groups(these)]
    assert sizes(first, second) == [2]
    assert sizes(first, read(runs / "sine1", step=3)) == [1, 1]
    with_other = lambda **arrays: dataclasses.replace(second, arrays={**second.arrays, **arrays})
    assert sizes(first, with_other(curves=second.arrays["curves"][:4])) == [1, 1]
    assert sizes(first, with_other(tasks=second.arrays["tasks"] + 1)) == [1, 1]


def test_tasks_that_some_seed_lost_are_counted_in_the_label(runs):
    first, second = Run.read(runs / "sine0"), Run.read(runs / "sine1")
    curves = second.arrays["curves"].copy()
    curves[2] = float("nan")
    lost = dataclasses.replace(second, arrays={**second.arrays, "curves": curves})
    assert groups([first, lost])[0].label == "sinusoid-maml (2 seeds, 1 of 10 tasks left out)"


def test_an_interval_of_an_error_does_not_go_below_zero():
    """Student's over two seeds does, where the tasks differ much."""
    errors = np.array([[0.0, 0.1, 3.0], [0.1, 0.0, 9.0]])
    assert stats.interval_over_seeds(errors)[0] < 0
    low, high = within(errors, stats.interval_over_seeds(errors))
    assert low == 0 and high == stats.interval_over_seeds(errors)[1]
    assert within(np.array([0.0, 1, 1, 1]), (0.4, 1.3)) == (0.4, 1.0)  # a share of right answers
    assert within(np.array([-1.0, 5.0]), (-2.0, 6.0)) == (-2.0, 6.0)  # a return


# --- what is said -------------------------------------------------------------------------------------------------


def test_tiles_say_their_units_and_never_mix_them(runs):
    def said(name):
        run = Run.read(runs / name)
        return [tile.what for tile in tiles(run, [run])]

    assert said("bandit") == [
        "return per trial of 4 steps, 10 held-out tasks",
        "return per step, before adaptation",
        "return per step, after 3 adaptations",
    ]
    assert said("navigation") == ["return per 100 steps, 10 held-out tasks", "return per 100 steps, before adaptation"]
    assert said("sine0") == ["query MSE, 10 held-out tasks", "query MSE, before adaptation"]
    run = Run.read(runs / "bandit")
    total = sum(point["mean"] for point in run.test["curve"])
    assert total == pytest.approx(run.test["score"]) and run.test["points_per_score"] == len(run.test["curve"]) == 4


def test_notes_on_a_test_are_on_the_page(runs):
    page = page_of([read(runs / "sine0", note="transductive: a query is told of the others", diverged=[1, 4])])
    assert "transductive: a query is told of the others." in page
    assert "2 of 10 held-out tasks were not finite and are left out" in page


def test_each_metric_has_a_table(runs):
    both = [Run.read(runs / "sine0"), Run.read(runs / "navigation")]
    assert [table["metric"] for table in tables(both, both)] == ["query MSE", "return per 100 steps"]


def test_a_run_composed_in_python_is_tested_reported_and_never_sent_to_a_command(runs, tmp_path):
    experiment = configure("sinusoid-maml", {"hidden_size": 8}).build()
    assert isinstance(experiment.learner, Gradient)
    result = quickstudy.train(
        experiment.learner, FewShot(), experiment.meta_optimizer, experiment.tasks,
        config=Training(meta_steps=3, meta_batch=4), evaluation=EvaluationConfig(FewShot(), num_tasks=12),
        out=tmp_path / "own", listener=lambda event: None,
    )  # fmt: skip
    assert isinstance(experiment.meta_optimizer, Backprop)
    before = page_of([Run.read(tmp_path / "own")])
    assert "result.evaluate() tests it" in before and "quickstudy evaluate" not in before
    found = result.evaluate()
    run = Run.read(tmp_path / "own")
    assert run.test["score"] == found.score and run.test["step"] == 3
    assert run.arrays["values"].tolist() == found.values.tolist()
    result.evaluate(objective=FewShot(metric="another"))  # is another test, and not the run's
    assert Run.read(tmp_path / "own").test["metric"] == "query MSE"
    page = report([tmp_path / "own"]).read_text()
    assert "Composed in Python" in page and "quickstudy train" not in page and "quickstudy evaluate" not in page


def test_the_command_makes_the_run_again(runs):
    about = json.loads((runs / "sine0" / "run.json").read_text())
    words = commands(about).split()
    assert words[:3] == ["quickstudy", "train", "sinusoid-maml"]
    assert "--meta-steps 6" in commands(about) and "--hidden-size 8" in commands(about)
    assert "--shots" not in commands(about) and "--devices" not in commands(about)
    assert configure("sinusoid-maml", about["config"]).tasks.hidden_size == 8


def test_the_commands_make_a_run_again_that_went_on_longer(runs, tmp_path):
    first = copied(runs / "sine0", tmp_path / "first")
    main(["resume", str(first), "--meta-steps", "8", "--quiet"])
    lines = commands(json.loads((first / "run.json").read_text())).splitlines()
    assert lines[-1] == "quickstudy resume RUN --step 6 --meta-steps 8" and lines[0].endswith(" --out RUN")
    assert "--meta-steps 6" in lines[0] and len(lines) == 2
    for line in lines:
        words = line.replace("RUN", str(tmp_path / "second")).split()[1:]
        main([*words, "--quiet"])
    digests = [RunFolder(tmp_path / name).manifest(8)["files"] for name in ("first", "second")]
    assert digests[0] == digests[1]


def test_what_came_after_the_step_a_run_went_on_from_is_no_part_of_its_history(tmp_path):
    common = {"meta_batch": 4, "seed": 0, "devices": 1, "cores": 0}

    def noted(step, **config):
        about = {"recipe": "a", "command": ["quickstudy", "train", "a"], "config": {**common, **config}}
        return commands(RunFolder(tmp_path).note(about, step)).splitlines()

    assert noted(0, meta_steps=20, keep=3) == ["quickstudy train a"]
    noted(20, meta_steps=24, keep=3)
    resumed = "quickstudy resume RUN --step 20 --meta-steps 24"
    assert noted(24, meta_steps=24, keep=9) == ["quickstudy train a --out RUN", resumed]
    assert noted(10, meta_steps=30, keep=9) == [
        "quickstudy train a --out RUN",
        "# It was stopped after step 10: stop it there, too.",
        "quickstudy resume RUN --step 10 --meta-steps 30",
    ]


def test_a_configuration_with_a_typo_names_it():
    with pytest.raises(ConfigError, match="did you mean inner_rate"):
        configure("sinusoid-maml", {"inner_rat": 0.1})
    with pytest.raises(ConfigError, match="shots must be"):
        configure("sinusoid-maml", {"shots": "five"})


# --- statistics ---------------------------------------------------------------------------------------------------


def test_intervals_are_seeded_and_cover():
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    assert stats.interval(values) == stats.interval(values)
    low, high = stats.interval(values)
    assert low < values.mean() < high and 0.15 < high - low < 0.25  # 2 · 1.96/√400 = 0.196
    assert stats.iqm(np.array([0.0, 1, 2, 3, 4, 5, 6, 100])) == pytest.approx(3.5)


def test_an_interval_over_few_seeds_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    drawn = lambda: rng.normal(size=(3, 1)) + rng.normal(size=(1, 30)) + 0.5 * rng.normal(size=(3, 30))
    intervals = [stats.interval_over_seeds(drawn()) for _ in range(400)]
    assert 0.9 < np.mean([low < 0 < high for low, high in intervals]) < 0.98
    alike = np.tile(rng.normal(size=(1, 400)), (3, 1))  # seeds that do not differ: that of the tasks alone
    np.testing.assert_allclose(stats.interval_over_seeds(alike), stats.interval(alike[0]), atol=0.02)
    assert stats.interval_over_seeds(np.ones((2, 5))) == (1.0, 1.0)
