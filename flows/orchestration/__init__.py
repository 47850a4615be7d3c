"""Prefect: the flows, deployments, GPU leases, cancellation, the reconciler."""
