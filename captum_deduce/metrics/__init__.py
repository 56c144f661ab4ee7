"""How close, sparse and real counterfactuals are: functions of tensors, free of any explainer."""

from captum_deduce.metrics.distance import l0, l1, l2, linf

__all__ = ["l0", "l1", "l2", "linf"]
