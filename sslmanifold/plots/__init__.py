"""Pictures, made from run folders alone."""
