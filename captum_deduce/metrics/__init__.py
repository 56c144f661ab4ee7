"""How close, sparse and real counterfactuals are."""
