"""Convert Keras networks to ONNX, layer by layer, without TensorFlow.

Why our own converter: tf2onnx needs TensorFlow (Keras also runs on JAX and PyTorch) and loses the
link between ONNX initialisers and Keras weights. Here the file is the same on every backend, its
tensors are named after the layers, and its weights can be read back into Keras
(`weights.read_weights`), so one ONNX file can be fine-tuned again and exported to Keras.
"""
