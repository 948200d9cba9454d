"""Which made images are trained on: each filter gives every image a score, a verdict and a reason."""
