"""What makes a run again: the command that began it, and those by which it went on otherwise."""

import shlex
from collections.abc import Mapping
from typing import Any

from quickstudy.report.grouping import HARMLESS
from quickstudy.runs.own import is_own
from quickstudy.runs.schema import flat


def commands(about: Mapping[str, Any]) -> str:
    """The lines to type, from what run.json says; or why there are none.

    A run that was resumed with other settings, as more meta-steps, is not made by one command: what follows from a
    setting, as a schedule of the learning rate, was another before.
    """
    if not about.get("recipe"):
        return "# It was composed in Python: run that program again. run.json has the settings of training."
    if not about.get("command"):
        return "# The command was not recorded. run.json has the configuration."
    begun, *resumed = about.get("history") or [{"step": 0, "config": about["config"]}]
    lines, before = [list(about["command"])], flat(begun["config"])
    for entry in resumed:
        now = flat(entry["config"])
        changed = {k: v for k, v in now.items() if v != before.get(k) and k.rsplit(".", 1)[-1] not in HARMLESS}
        if changed:
            if entry["step"] < _end(before):
                lines.append([f"# It was stopped after step {entry['step']:,}: stop it there, too."])
            words = ["quickstudy", "resume", "RUN", "--step", str(entry["step"])]
            for name, value in changed.items():
                words += [f"--{name.rsplit('.', 1)[-1].replace('_', '-')}", str(value)]
            words += ["--recipe", *about["command"][2:3]] if is_own(about["recipe"]) else []  # or it is not imported
            lines.append(words)
        before = now
    if len(lines) > 1:
        lines[0] += ["--out", "RUN"]
    return "\n".join(words[0] if words[0].startswith("#") else shlex.join(words) for words in lines)


def _end(config: Mapping[str, Any]) -> int:
    ends = [v for k, v in config.items() if k.rsplit(".", 1)[-1] == "meta_steps" and isinstance(v, int)]
    return ends[0] if ends else 0
