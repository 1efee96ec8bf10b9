"""Describes model files: what they are, what they compute, what their custom operators mean."""
