"""One module per counterfactual method; none imports another."""
