"""CLINC150: 150 intents of a user's sentence, in 10 domains of 15 (Larson et al. 2019, EMNLP).

Few-shot tasks classify intents of domains that are never seen in training. A sentence is a vector that needs no
download: its words, pairs of words and character 3- to 5-grams, hashed with a sign into `dims` numbers (Weinberger et
al. 2009), dampened by how common they are among the training sentences, and brought to length 1.
"""

import gzip
import itertools
import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import scipy.sparse

from quickstudy.tasks.classes import Classes, check, pool_of
from quickstudy.tasks.files import DataError, data_folder

FILES = ("clinc150.json.gz", "clinc150_domains.json")
SPLIT_SEED = 2019
TRAINING_DOMAINS, VALIDATION_DOMAINS = 5, 2  # the other three are for test


def clinc150(
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    training_ways: int | None = None,
    dims: int = 1024,
    data: str | os.PathLike | None = None,
) -> Classes:
    """Few-shot tasks of intents, as vectors of `dims` numbers.

    data: the folder with clinc150.json.gz and clinc150_domains.json (default: $QUICKSTUDY_DATA)

    Raises DataError when the files are missing or of another form, ValueError for tasks that cannot be drawn.
    """
    sentences, intents, domains = _stored(Path(data_folder(data)))
    names = sorted(set(intents))
    number = {intent: i for i, intent in enumerate(names)}
    order = [sorted(domains)[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(domains))]
    cut = TRAINING_DOMAINS, TRAINING_DOMAINS + VALIDATION_DOMAINS
    chosen = order[: cut[0]], order[cut[0] : cut[1]], order[cut[1] :]
    parts = tuple(tuple(number[i] for domain in part for i in sorted(domains[domain])) for part in chosen)
    labels = np.array([number[i] for i in intents], np.int32)
    grams = [list(_grams(sentence)) for sentence in sentences]
    vectors = _hashed(grams, dims, np.isin(labels, parts[0]))
    note = f"CLINC150, test intents of unseen domains ({', '.join(chosen[2])}); {dims} hashed features"
    pool = pool_of(vectors, labels)
    classes = Classes(
        pool, jnp.asarray(parts[0]), ways, shots, queries, parts,
        training_ways=training_ways, note=note, names=tuple(names),
    )  # fmt: skip
    return check(classes)


def _stored(folder: Path) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """Sentences and their intents, those out of scope left out, and the intents of each domain."""
    for name in FILES:
        if not (folder / name).exists():
            raise DataError(
                f"there is no {name} in {folder}: put the two files of CLINC150 there (data_full.json gzipped as "
                "clinc150.json.gz, and domains.json as clinc150_domains.json), or say where they are with --data"
            )
    try:
        with gzip.open(folder / FILES[0], "rt", encoding="utf-8") as file:
            stored = json.load(file)
        domains = json.loads((folder / FILES[1]).read_text(encoding="utf-8"))
        pairs = [(str(sentence), str(intent)) for part in ("train", "val", "test") for sentence, intent in stored[part]]
        domains = {domain: list(intents) for domain, intents in domains.items()}
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise DataError(f"{folder / FILES[0]} and its domains cannot be read as CLINC150: {error}") from error
    known = {intent for intents in domains.values() for intent in intents}
    if missing := {intent for _, intent in pairs} ^ known:
        raise DataError(f"the files in {folder} disagree about the intents {sorted(missing)[:5]}")
    if len(domains) <= TRAINING_DOMAINS + VALIDATION_DOMAINS:
        raise DataError(f"{folder / FILES[1]} has {len(domains)} domains; at least 8 are needed to hold some out")
    return [sentence for sentence, _ in pairs], [intent for _, intent in pairs], domains


def _grams(sentence: str) -> Iterable[str]:
    words = sentence.lower().split()
    yield from (f"w:{word}" for word in words)
    yield from (f"p:{a} {b}" for a, b in itertools.pairwise(words))
    text = f" {' '.join(words)} "
    yield from (text[i : i + n] for n in (3, 4, 5) for i in range(len(text) - n + 1))


def _hashed(grams: list[list[str]], dims: int, training: np.ndarray) -> np.ndarray:
    """[sentences, dims] of length 1."""
    place: dict[str, int] = {}
    columns = np.fromiter((place.setdefault(g, len(place)) for sentence in grams for g in sentence), np.int64)
    rows = np.repeat(np.arange(len(grams)), [len(sentence) for sentence in grams])
    times = scipy.sparse.csr_array((np.ones(len(columns)), (rows, columns)), (len(grams), len(place)))
    seen = (times[training] > 0).sum(0)
    times.data = (1 + np.log(times.data)).astype(times.dtype)
    code = np.fromiter((zlib.crc32(g.encode()) for g in place), np.int64, len(place))
    weight = np.log((1 + training.sum()) / (1 + seen)) * np.where(code >> 31, 1.0, -1.0)
    onto = scipy.sparse.csr_array((weight, (np.arange(len(place)), code % dims)), (len(place), dims))
    vectors = (times @ onto).toarray().astype(np.float32)  # type: ignore[union-attr]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
