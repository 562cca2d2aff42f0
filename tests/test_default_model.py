"""The default model gives 160 drawn posters the answers that are stored in `tests/expected/default_model.json`.

This test of accuracy needs no real posters. It notices a change of the bundle, the decoder, the resize rule, an engine
or a threshold. If such a change is intended, `python tests/test_default_model.py` writes the file again.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest

from genretag.demo.posters import draw_posters
from genretag.images.decoding import decode
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.model.engines import open_engine
from genretag.output.label_lists import genre_lists
from genretag.storage import Storage

EXPECTED = Path(__file__).parent / "expected" / "default_model.json"
COUNT, SEED = 160, 7  # as in the fixture `drawn_posters`
TOLERANCE = 0.02  # largest difference of a probability on a CPU with another instruction set
SAME_GENRES = 0.99
DIGITS = 4


def answers(posters):
    """Return the default model's version, labels, and for each poster its checksum, probabilities and genres."""
    bundle = load_bundle(str(DEFAULT_BUNDLE), Storage())
    pixels = np.stack([decode(poster.data, bundle.rule).pixels for poster in posters])
    probabilities = open_engine("openvino", bundle, 32, 2).predict(pixels)
    rounded = probabilities.astype(float).round(DIGITS).tolist()
    genres = genre_lists(bundle.labels, probabilities, bundle.profile().predicted(probabilities)).to_pylist()
    return {
        "model_version": bundle.model_version,
        "labels": list(bundle.labels),
        "pillow": PIL.__version__,
        "posters": {
            poster.key: {"crc32": zlib.crc32(poster.data), "genres": found, "probabilities": row}
            for poster, found, row in zip(posters, genres, rounded, strict=True)
        },
    }


def matrix(stored):
    """Return the probabilities of stored answers as an array."""
    return np.array([poster["probabilities"] for poster in stored["posters"].values()])


@pytest.fixture(scope="module")
def expected():
    return json.loads(EXPECTED.read_text())


@pytest.fixture(scope="module")
def now(drawn_posters):
    return answers(drawn_posters)


def test_the_stored_answers_are_of_the_model_version_that_ships(now, expected):
    again = f"run `python tests/{Path(__file__).name}`"

    assert now["model_version"] == expected["model_version"], f"the default model is another one: {again}"
    assert now["labels"] == expected["labels"]
    drawn = [{key: poster["crc32"] for key, poster in each["posters"].items()} for each in (now, expected)]
    assert drawn[0] == drawn[1], f"posters are drawn otherwise by Pillow {now['pillow']}: {again}"


def test_probabilities_are_the_stored_ones(now, expected):
    np.testing.assert_allclose(matrix(now), matrix(expected), rtol=0, atol=TOLERANCE)


def test_posters_get_the_stored_genres(now, expected):
    pairs = zip(now["posters"].values(), expected["posters"].values(), strict=True)

    assert np.mean([one["genres"] == other["genres"] for one, other in pairs]) >= SAME_GENRES


if __name__ == "__main__":
    found = answers(list(draw_posters(COUNT, SEED)))
    lines = [f"  {json.dumps(key)}: {json.dumps(poster)}" for key, poster in found.pop("posters").items()]
    head = "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in found.items())
    EXPECTED.parent.mkdir(exist_ok=True)
    EXPECTED.write_text("{" + head + '"posters": {\n' + ",\n".join(lines) + "\n}}\n")
    print(f"{EXPECTED}: {len(lines)} posters, model {found['model_version']}")
