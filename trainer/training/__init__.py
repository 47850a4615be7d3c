"""The native engine's training loop: transformers' ``Trainer`` with upstream's arguments and atomic checkpoints."""
