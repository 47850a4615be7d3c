"""GR00T N1.5: Eagle 2.5 backbone, flow-matching action head, its prompts and its tiny version."""
