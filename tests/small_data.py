"""Data sets of the published layout with made-up content, for tests that need no real data."""

import gzip
import json

import numpy as np


def omniglot(folder, characters=30, pixels=28 * 28):
    """Random images of so many characters; every third one is for training, validation and test of Vinyals' split."""
    rng = np.random.default_rng(0)
    bits = np.packbits(rng.integers(0, 2, (characters, 20, pixels), np.uint8), axis=-1)
    np.savez(folder / "omniglot28.npz", images=bits, images_nearest=bits, vinyals=np.arange(characters) % 3)


def clinc150(folder, domains=8, intents=3, sentences=6):
    names = {f"d{d}": [f"i{d}-{i}" for i in range(intents)] for d in range(domains)}
    told = [intent for intents in names.values() for intent in intents]
    pairs = [[f"please {intent} number {n}", intent] for intent in told for n in range(sentences)]
    with gzip.open(folder / "clinc150.json.gz", "wt") as file:
        json.dump({"train": pairs, "val": [], "test": [], "oos_train": [["x", "oos"]]}, file)
    (folder / "clinc150_domains.json").write_text(json.dumps(names))
