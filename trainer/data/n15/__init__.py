"""What GR00T N1.5 alone asks of data. Its processing is in ``trainer.data`` and ``trainer.data.transforms``."""
