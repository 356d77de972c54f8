"""Trained pipelines as repositories on the Hub: cards, checks, one commit."""
