"""Training of a small network of PoseNet's form, on rendered scenes or on a user's own pictures."""
