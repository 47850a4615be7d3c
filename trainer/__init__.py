"""The part of pippa that runs inside the training image: data, model, training, store.

Nothing here imports ``flows``, Prefect or Docker. Modules of ``data``, ``gr00t`` and ``training`` import torch where
they compute; all others are imported without it, and import it, if at all, in the function that needs it: torch and
transformers take seconds, and the images around another engine have neither.
"""
