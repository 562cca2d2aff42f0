#!/bin/sh
# A CLIP image encoder of KerasHub that is built without a preset gives all patches the same position.
#
# Versions: keras-hub 0.32.0, keras 3.15.1, tensorflow-cpu 2.21.0, Python 3.11.
#
# `keras_hub.models.CLIPVisionEncoder` looks up the embeddings of the positions by the weight `position_ids`. The weight
# starts as zeros, is not trainable, and only a preset brings the numbers 0, 1, 2, ... So an encoder for another size of
# picture or for training from the start adds the embedding of position 0 to the class token and to every patch. Two
# pictures with the same patches in another order then have the same class token, and training cannot mend it. SigLIP's
# encoder in the same package fills its numbers itself.
#
# Output seen:
#   position_ids: [0, 0, 0, 0, 0]
#   class tokens of a picture and of its patches in another order: equal
#   the same with position_ids 0 to 4: different
#
# What to do: set the weight `position_ids` to 0, 1, 2, ... after the encoder is built.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 tensorflow-cpu==2.21.0 absl-py regex rich packaging sentencepiece tokenizers \
  kagglehub==1.0.1 kagglesdk==0.1.28
"$folder/venv/bin/pip" install -q --no-deps keras-hub==0.32.0  # its requirement tensorflow-text installs a second TensorFlow
cat > "$folder/try.py" <<'PY'
import keras
import keras_hub
import numpy as np

keras.utils.set_random_seed(1)
encoder = keras_hub.models.CLIPVisionEncoder(
    patch_size=8, hidden_dim=16, num_layers=1, num_heads=2, intermediate_dim=32, image_shape=(16, 16, 3)
)
embedding = encoder.get_layer("embedding")
embedding.position_embedding.embeddings.assign(np.random.default_rng(1).normal(size=(5, 16)))
numbers = np.asarray(embedding.position_ids)[0].tolist()
print("position_ids:", numbers)
assert numbers == [0, 0, 0, 0, 0], "changed: the encoder numbers its positions"

picture = np.random.default_rng(2).random((1, 16, 16, 3), dtype=np.float32)
swapped = np.concatenate([picture[:, 8:], picture[:, :8]], axis=1)


def are_equal():
    first, second = (np.asarray(encoder(one))[0, 0] for one in (picture, swapped))
    return bool(np.allclose(first, second, atol=1e-4))


assert are_equal()
print("class tokens of a picture and of its patches in another order: equal")
embedding.position_ids.assign(np.arange(5)[np.newaxis])
assert not are_equal()
print("the same with position_ids 0 to 4: different")
PY
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/try.py" 2>"$folder/errors" || { cat "$folder/errors"; exit 1; }
