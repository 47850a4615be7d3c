"""A registered checkpoint as a plain Hugging Face folder with a model card, and onto the hub."""
