"""LoRA files: naming schemes, parsing, reading, metadata."""
