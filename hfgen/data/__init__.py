"""Images in: any `datasets` source or folder becomes uint8 tensors."""
