"""The DeDUCE paper's tables and figures, made anew: what ``captum-deduce reproduce`` runs."""
