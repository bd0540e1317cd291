"""What a developer of LoRA Loom runs; never shipped with the pack."""
