"""Readers of every form that PoseNet weights come in; each makes a model_build.network.Network."""
