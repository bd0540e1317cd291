"""Adapter families as pure functions over named tensors, one file a family."""
