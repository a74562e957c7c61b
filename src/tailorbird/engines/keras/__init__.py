"""The Keras engine: Keras Applications and notebooks' own models, on TensorFlow, JAX or PyTorch."""
