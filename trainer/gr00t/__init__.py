"""GR00T N1.5: Eagle 2.5 backbone, flow-matching action head, their files, and the policy on top."""
