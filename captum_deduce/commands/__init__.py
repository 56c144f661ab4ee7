"""What ``captum-deduce`` does: a module for each command, with a ``run`` that the parser calls."""
