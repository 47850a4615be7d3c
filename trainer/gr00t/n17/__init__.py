"""GR00T N1.7: Qwen3-VL backbone, flow-matching action head with alternating attention, its processing and prompts."""
