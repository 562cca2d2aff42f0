"""Embeddings in the predictions, and what finds similar posters and duplicates with them."""

import shutil

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from genretag.commands.duplicates import duplicates
from genretag.commands.similar import similar
from genretag.errors import UsageError
from genretag.model.bundle import KERAS_FILE, load_bundle
from genretag.model.embeddings import embedding_length, with_embeddings
from genretag.model.engines import open_engine
from genretag.output.embeddings import embedding_files
from genretag.runtime.session import Session
from genretag.scoring.settings import TagSettings
from genretag.storage import Storage

pytestmark = pytest.mark.slow

QUIET = Session(quiet=True)


@pytest.fixture
def variants(few_posters):
    """Add two variants of the first poster to the folder: half as large, and without a tenth of each side."""
    first = min(few_posters.glob("*.jpg"))
    with Image.open(first) as image:
        width, height = image.size
        image.resize((width // 2, height // 2)).convert("RGB").save(few_posters / "small.png")
        cut = width // 20, height // 20, width - width // 20, height - height // 20
        image.crop(cut).convert("RGB").save(few_posters / "cropped.jpg", quality=90)
    return few_posters, first


@pytest.fixture
def tagged(variants, run, tmp_path):
    """Tag the folder with embeddings, and return the output."""
    output = tmp_path / "out"
    run(variants[0], output, embeddings=True)
    return output


def test_the_column_holds_what_the_head_reads(tagged, small_bundle, few_posters):
    """The head of the network turns the stored vectors into the stored probabilities."""
    import keras

    bundle = load_bundle(small_bundle, Storage())
    (few_posters / "model.keras").write_bytes(bundle.files[KERAS_FILE])
    kernel, bias = keras.saving.load_model(few_posters / "model.keras").layers[-1].get_weights()
    rows = pa.concat_tables(pq.read_table(file) for file in sorted((tagged / "predictions").rglob("*.parquet")))

    assert rows.schema.field("embedding").type == pa.list_(pa.float16(), len(kernel))
    vectors = np.stack(rows["embedding"].to_pylist()).astype(np.float32)
    stored = np.stack([rows[name].to_numpy() for name in rows.column_names if name.startswith("p_")], axis=1)
    np.testing.assert_allclose(1 / (1 + np.exp(-(vectors @ kernel + bias))), stored, atol=0.02)  # the head is int8


def test_duckdb_reads_the_column(tagged, small_bundle):
    length = embedding_length(load_bundle(small_bundle, Storage()))

    values = duckdb.sql(f"select embedding::float[{length}] as e from '{tagged}/predictions/*/*.parquet'")

    assert values.aggregate("count(*), min(array_cosine_similarity(e, e))").fetchall() == [(14, pytest.approx(1))]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_all_engines_give_the_same_embeddings(small_bundle, few_posters, precision):
    bundle = load_bundle(small_bundle, Storage())
    shape = (4, bundle.rule.height, bundle.rule.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    plain = open_engine("openvino", bundle, 4, 1, "float32").predict(pixels)

    found = [
        open_engine(name, with_embeddings(bundle, name), 4, 1, kind).predict(pixels)
        for name, kind in (("openvino", "float32"), ("tensorflow", precision))
    ]

    np.testing.assert_array_equal(found[0][:, : len(bundle.labels)], plain)
    if precision == "float32":
        np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    vectors = [one[:, len(bundle.labels) :] for one in found]
    units = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in vectors]
    assert (units[0] * units[1]).sum(axis=1).min() > 0.99


def test_similar_finds_the_variants_of_a_poster_by_uri_id_or_file(tagged, variants, small_bundle, tmp_path):
    folder, first = variants
    elsewhere = shutil.copy(first, tmp_path / "elsewhere.jpg")

    by_uri = similar(str(first), str(tagged), Storage(), count=3)
    by_id = similar(first.stem, str(tagged), Storage(), count=3)
    by_file = similar(str(elsewhere), str(tagged), Storage(), count=3, model=small_bundle)

    assert {one.uri for one in by_uri[:2]} == {str(folder / "small.png"), str(folder / "cropped.jpg")}
    assert by_uri == by_id
    assert by_file[0].uri == str(first)
    assert by_file[0].similarity > 0.99
    assert by_uri[0].similarity >= by_uri[1].similarity > by_uri[2].similarity


def test_duplicates_are_the_variants_and_no_other_posters(tagged, variants):
    folder, first = variants
    same = {str(first), str(folder / "small.png"), str(folder / "cropped.jpg")}

    pairs = duplicates(str(tagged), QUIET, 0.999)
    found = duplicates(str(tagged), QUIET, least_of(tagged, same))

    assert all({pair.first, pair.second} <= same for pair in pairs)
    assert [{pair.first, pair.second} <= same for pair in found[:3]] == [True] * 3
    assert [pair.similarity for pair in found] == sorted((pair.similarity for pair in found), reverse=True)


def least_of(output, uris):
    """Return the least similarity between posters of `uris`, by NumPy."""
    rows = pa.concat_tables(embedding_files(str(output), Storage()).batches(Storage()))
    vectors = [v for uri, v in zip(rows["uri"].to_pylist(), rows["embedding"].to_pylist(), strict=True) if uri in uris]
    units = np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float((units @ units.T).min()) - 1e-4


def test_what_cannot_be_compared_is_refused(tagged, run, few_posters, small_bundle, tmp_path, command):
    plain = tmp_path / "plain"
    run(few_posters, plain)

    for arguments, says in (
        (("similar", few_posters / "small.png", plain), "have no embeddings: tag with --embeddings to another output"),
        (("similar", few_posters / "none.png", tagged), "takes the model"),
        (("similar", few_posters / "none.png", tagged, "--model", small_bundle), "and cannot be read"),
        (("similar", "x", tmp_path / "nothing"), "there are no predictions"),
        (("duplicates", plain), "have no embeddings"),
        (("duplicates", tagged, "--least", "0"), "least must be above 0 and at most 1, not 0"),
    ):
        code, out, err = command(*arguments)
        assert (code, out) == (2, ""), err
        assert says in err.splitlines()[-1], err
    with pytest.raises(UsageError, match="they differ in embedding"):
        run(few_posters, plain, embeddings=True, retry_failed=True)


def test_a_file_of_many_values_has_fewer_posters():
    assert TagSettings().rows_per_file_for(10_000_000, 100_025) < TagSettings().rows_per_file_for(10_000_000, 25)


def test_a_network_without_a_linear_head_has_no_embedding(tmp_path):
    import openvino
    from openvino import opset13 as ops

    from genretag.images import ImageRule
    from genretag.model.bundle import OPENVINO_FILES, Bundle
    from genretag.model.openvino_graphs import graph_files

    image = ops.parameter([-1, 8, 8, 3], openvino.Type.u8)
    mean = ops.reduce_mean(ops.convert(image, "f32"), ops.constant(np.array([1, 2])), keep_dims=False)
    graph = openvino.Model([ops.result(ops.sigmoid(mean))], [image], "colours")
    files = graph_files(graph, OPENVINO_FILES, half=False)
    bundle = Bundle(("red", "green", "blue"), {}, ImageRule(8, 8), "colours", files)

    with pytest.raises(UsageError, match="does not end in a linear layer"):
        with_embeddings(bundle, "openvino")
