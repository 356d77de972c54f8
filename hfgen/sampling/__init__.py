"""Images from trained models, one seed for each image."""
