"""The part of pippa that runs inside the training image: data, model, training, store.

Nothing here imports ``flows``, Prefect or Docker, and no module outside ``data``, ``gr00t``, ``finetune`` and
``evaluate`` imports torch, so that the light commands stay light.
"""
