"""Estimators with scikit-learn's face."""
