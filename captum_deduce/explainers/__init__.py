"""One module per counterfactual method; none imports another."""

from captum_deduce.explainers.deduce import DeDUCE
from captum_deduce.explainers.jsma import JSMA
from captum_deduce.explainers.revise import REVISE
from captum_deduce.explainers.schut import Schut
from captum_deduce.explainers.vlk import VLK
from captum_deduce.explainers.wachter import Wachter

__all__ = ["JSMA", "REVISE", "VLK", "DeDUCE", "Schut", "Wachter"]
