"""SavedModels for TensorFlow Serving: signatures, writing, verifying."""
