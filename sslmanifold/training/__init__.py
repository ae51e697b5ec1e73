"""Training: the LightningModule, its callbacks and the run around them."""
