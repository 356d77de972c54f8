"""Draws from any sampler, one seed for each image: below the families, which bring the samplers."""
