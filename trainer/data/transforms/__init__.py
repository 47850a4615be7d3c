"""From raw steps to the model's inputs and back, in upstream's semantics (``gr00t/data/transform``)."""
