"""Merging and resizing: methods weight by weight, rank rules, and the certificate of what became of it."""
