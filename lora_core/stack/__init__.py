"""Stacks: rows of LoRAs with strengths, from widgets, JSON text and other packs."""
