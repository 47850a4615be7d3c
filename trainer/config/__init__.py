"""What is trained and how: the fine-tune config, presets, argv, run spec, settings."""
