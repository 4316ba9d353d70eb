"""The documentation, and what fills in the figures that it quotes."""
