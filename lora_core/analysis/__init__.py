"""What is in a LoRA and what it does, measured on its factors and drawn."""
