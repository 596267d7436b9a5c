"""A share of what `fuzz_folders.py` does; the whole is run before a release."""

import collections

import fuzz_folders
from quickstudy.runs import reader


def test_no_mutated_folder_is_silently_wrong_foreign_or_run(tmp_path):
    told = []
    found = fuzz_folders.fuzz(tmp_path, 250, tell=told.append)
    assert found == collections.Counter(), told


def test_the_harness_finds_what_is_wrong(tmp_path, monkeypatch):
    """Without the sums and the types, changed values are believed and other exceptions come through."""

    def believe(path, kind, mend, limit=reader.SMALL, exact=False):
        value = reader._parsed(path, reader.read_regular(path, limit, mend), mend)
        return {name: inner for name, inner in value.items() if name != "sha256"}

    monkeypatch.setattr(reader, "read_json", believe)
    monkeypatch.setattr("quickstudy.runs.folder.changed", lambda *_, **__: "")
    found = fuzz_folders.fuzz(tmp_path, 60, first=150)
    assert found["silently wrong"] and found["foreign exception"]
