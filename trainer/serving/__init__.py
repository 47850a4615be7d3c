"""The policy server: the wire formats of GR00T's clients, and one model behind them."""
