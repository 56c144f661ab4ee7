"""What people see in counterfactuals: a page that asks them, and what their answers say."""

from captum_deduce.study.agreement import krippendorff_alpha
from captum_deduce.study.analysis import StudyAnalysis, analyse_study
from captum_deduce.study.answers import Answer, read_answers
from captum_deduce.study.design import TASKS
from captum_deduce.study.key import PairKey, StudyKey, TrialKey
from captum_deduce.study.make import CONSENT, TITLE, Study, make_study
from captum_deduce.study.methods import MethodResults, read_methods
from captum_deduce.study.plot import plot_study
from captum_deduce.study.power import answers_needed, comparisons_needed
from captum_deduce.study.preferences import RESAMPLES, Preference, bradley_terry, preferences
from captum_deduce.study.proportions import Difference, Share, difference, share
from captum_deduce.study.written import analysis_text, save_analysis

__all__ = [
    "CONSENT",
    "RESAMPLES",
    "TASKS",
    "TITLE",
    "Answer",
    "Difference",
    "MethodResults",
    "PairKey",
    "Preference",
    "Share",
    "Study",
    "StudyAnalysis",
    "StudyKey",
    "TrialKey",
    "analyse_study",
    "analysis_text",
    "answers_needed",
    "bradley_terry",
    "comparisons_needed",
    "difference",
    "krippendorff_alpha",
    "make_study",
    "plot_study",
    "preferences",
    "read_answers",
    "read_methods",
    "save_analysis",
    "share",
]
