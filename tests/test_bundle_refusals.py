"""`genretag bundle` refuses what cannot become a bundle in one line, and writes nothing."""

import onnx
import openvino
import pytest
from taggers import onnx_tagger, save_labels, save_onnx


def two_inputs(folder):
    model = onnx_tagger()
    model.graph.input.append(onnx.helper.make_tensor_value_info("size", onnx.TensorProto.FLOAT, [1]))
    model.graph.node.append(onnx.helper.make_node("Identity", ["size"], ["same"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, [1]))
    onnx.save(model, folder / "tagger.onnx")
    return folder / "tagger.onnx"


def two_outputs(folder):
    model = onnx_tagger()
    model.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 5]))
    onnx.save(model, folder / "tagger.onnx")
    return folder / "tagger.onnx"


def unknown_operator(folder):
    model = onnx_tagger()
    model.graph.node[0].domain, model.graph.node[0].op_type = "my.company", "Mystery"
    model.opset_import.append(onnx.helper.make_opsetid("my.company", 1))
    onnx.save(model, folder / "tagger.onnx")
    return folder / "tagger.onnx"


def lost_weights(folder):
    onnx.save(
        onnx_tagger(), folder / "tagger.onnx", save_as_external_data=True, location="tagger.weights", size_threshold=0
    )
    (folder / "tagger.weights").unlink()
    return folder / "tagger.onnx"


def weights_elsewhere(folder):
    model = onnx_tagger()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/hostname")
    (folder / "tagger.onnx").write_bytes(model.SerializeToString())
    return folder / "tagger.onnx"


def keras_lambda(folder):
    import keras

    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x[:, 0, 0])])
    model.save(folder / "tagger.keras")
    return folder / "tagger.keras"


def keras_custom(folder):
    import keras

    class Mine(keras.layers.Layer):
        def call(self, x):
            return x[:, 0, 0]

    keras.Sequential([keras.Input((8, 8, 3)), Mine()]).save(folder / "tagger.keras")
    return folder / "tagger.keras"


def no_ir_weights(folder):
    openvino.save_model(openvino.convert_model(save_onnx(folder)), folder / "tagger.xml")
    (folder / "tagger.bin").unlink()
    return folder / "tagger.xml"


def garbage(folder):
    (folder / "tagger.onnx").write_bytes(b"<html>not found</html>")
    return folder / "tagger.onnx"


@pytest.mark.parametrize(
    ("model", "flags", "said"),
    [
        (save_onnx, ["--labels", "four"], "returns 5 values for a picture, and there are 4 labels"),
        (two_inputs, [], "the model has 2 inputs"),
        (two_outputs, [], "name one with --model-output: tags, logits"),
        (two_outputs, ["--model-output", "tag"], "has no output 'tag'"),
        (lambda f: save_onnx(f, height=None), [], "takes pictures of any height: set --height and --width"),
        (save_onnx, ["--height", "64"], "takes pictures of height 48, not 64"),
        (lambda f: save_onnx(f, width=3), [], "has two axes of size 3: set --layout"),
        (lambda f: save_onnx(f, last=None), [], "set --activation sigmoid"),
        (save_onnx, ["--activation", "softmax"], "ends with a sigmoid already"),
        (lambda f: save_onnx(f, last=None), ["--activation", "none"], "the outputs are no probabilities"),
        (lambda f: save_onnx(f, last="Softmax"), ["--activation", "tanh"], "activation must be one of"),
        (unknown_operator, [], "OpenVINO cannot"),
        (lost_weights, [], "keeps weights in 'tagger.weights', which cannot be read"),
        (weights_elsewhere, [], "keeps weights outside its folder"),
        (keras_lambda, [], "Keras does not load the model"),
        (keras_custom, [], "Keras does not load the model"),
        (no_ir_weights, [], "keeps weights in 'tagger.bin'"),
        (garbage, [], "is not an ONNX model"),
        (lambda f: f / "tagger.onnx", [], "cannot read the model"),
        (lambda f: f / "tagger.h5", [], "save it as .keras"),
        (lambda f: f / "saved", [], "there is no model at"),
        (save_onnx, ["--scale", "many"], "scale must be a number"),
        (save_onnx, ["--mean", "1,2"], "mean must be one number, or 3 with commas"),
        (save_onnx, ["--deviation", "0"], "must not be 0"),
        (save_onnx, ["--bars", "white"], "bars must be a colour such as #ffffff"),
        (save_onnx, ["--threshold", "35"], "threshold must be from 0 to 1"),
        (save_onnx, ["--threshold-column", "cut"], "needs the labels in a .csv file"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused(command, tmp_path, model, flags, said):
    (tmp_path / "four").write_text("a\nb\nc\nd\n")
    labels = [] if "--labels" in flags else ["--labels", save_labels(tmp_path)]
    flags = [str(tmp_path / flag) if flag == "four" else flag for flag in flags]

    code, out, err = command("bundle", model(tmp_path), *labels, "--output", tmp_path / "out", *flags)

    assert (code, out) == (2, "")
    assert said in err
    assert len([line for line in err.splitlines() if line.startswith("genretag: ")]) == 1
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tags.txt", "red\n\nsky\nsea\nblue\n", "label 2 in"),
        ("tags.txt", "", "has no labels"),
        ("tags.txt", "red\nred\nsky\nsea\nblue\n", "would both be the column red"),
        ("tags.csv", "a,b\n1,red\n", "name one with --label-column"),
        ("tags.json", "{", "is not JSON"),
        ("tags.json", '{"1": "red"}', "must map each output number"),
        ("tags.json", "[1, 2]", "must have a list of labels"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(command, tmp_path, name, text, said):
    (tmp_path / name).write_text(text)

    code, _, err = command("bundle", save_onnx(tmp_path), "--labels", tmp_path / name, "--output", tmp_path / "out")

    assert code == 2
    assert said in err


def test_a_bundle_that_differs_from_its_model_is_not_written(command, tmp_path, monkeypatch):
    monkeypatch.setattr("genretag.importing.make_bundle.TOLERANCE", -1.0)

    code, _, err = command(
        "bundle",
        save_onnx(tmp_path),
        "--labels",
        save_labels(tmp_path),
        "--output",
        tmp_path / "out",
        "--scale",
        "1/255",
    )

    assert code == 2
    assert "the bundle does not answer like the model in ONNX Runtime" in err
    assert not (tmp_path / "out").exists()


def test_a_bundle_is_replaced_only_if_asked(command, tmp_path):
    arguments = "bundle", save_onnx(tmp_path), "--labels", save_labels(tmp_path), "--output", tmp_path / "out"

    codes = [command(*arguments)[0], command(*arguments)[0], command(*arguments, "--overwrite")[0]]

    assert codes == [0, 2, 0]
