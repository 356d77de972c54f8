"""Trained pipelines on held-out images: bounds, figures."""
