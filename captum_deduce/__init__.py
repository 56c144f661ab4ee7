"""Counterfactual explanations for PyTorch image classifiers, as native Captum explainers."""
