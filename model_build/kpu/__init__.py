"""The K210's neural network processor (KPU): layers, model files, memory layout, cost."""
