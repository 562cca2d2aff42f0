"""Bring your own model: make a bundle of an ONNX file, a Keras file, an OpenVINO IR or a TensorFlow SavedModel."""
