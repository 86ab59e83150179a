"""Ways to apply the inverse of the curvature."""
