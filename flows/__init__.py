"""Orchestration on the host: the ``pippa`` command, the Prefect flows, and where a training runs. No torch."""
