"""The object store: snapshots of folders, the checkpoint registry, the records of runs, garbage collection."""
