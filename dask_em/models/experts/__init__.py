"""Mixtures of experts: a softmax gate and one expert per component."""
