"""`genretag predict` prints the top three genres of a few files, without Ray and without TensorFlow."""

import subprocess
import sys

import pytest

from genretag.demo.posters import draw_poster
from genretag.storage import join


@pytest.fixture
def poster(tmp_path):
    file = tmp_path / "poster.jpg"
    file.write_bytes(draw_poster(1))
    return file


def test_three_genres_with_their_probabilities(command, poster):
    code, out, _ = command("predict", poster, poster)

    assert code == 0
    first, second = out.splitlines()
    assert first == second
    name, genres = first.split(": ")
    assert name == str(poster)
    probabilities = [float(genre.split()[-1]) for genre in genres.split(", ")]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_poster_in_a_bucket(command, bucket, storage):
    storage.put(join(bucket, "a.jpg"), draw_poster(1))

    code, out, _ = command("predict", join(bucket, "a.jpg"))

    assert (code, out.startswith(join(bucket, "a.jpg: "))) == (0, True)


def test_a_bad_poster_is_explained_and_the_good_one_still_answered(command, poster, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"<html>")

    code, out, err = command("predict", tmp_path / "bad.jpg", poster, tmp_path / "gone.jpg")

    assert code == 2
    assert out.startswith(f"{poster}: ")
    bad, gone = err.splitlines()
    assert bad.startswith(f"{tmp_path}/bad.jpg: ")
    assert gone.startswith(f"{tmp_path}/gone.jpg: No such file")


def test_neither_ray_nor_tensorflow_is_imported(poster):
    code = (
        "import sys; from genretag.cli import main; main(['predict', sys.argv[1]]); "
        "print({'ray', 'tensorflow', 'keras'} & set(sys.modules), file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", code, str(poster)], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "set()\n")
