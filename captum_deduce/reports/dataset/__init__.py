"""What a run over a whole data set tells about the model: tables, maps, a page."""

from captum_deduce.reports.dataset.change_maps import ChangeMaps, change_maps
from captum_deduce.reports.dataset.page import report_html, save_report
from captum_deduce.reports.dataset.pairs import (
    QUESTIONS,
    STATES,
    class_pairs,
    main_question,
    order_by_cost,
    pairs_table,
)
from captum_deduce.reports.dataset.pictures import Range, change_pixels, encoded
from captum_deduce.reports.dataset.report import RunReport, report_run
from captum_deduce.reports.dataset.selection import PairPictures
from captum_deduce.reports.dataset.source import ExplainedRun
from captum_deduce.reports.dataset.spots import Spot, find_spot

__all__ = [
    "QUESTIONS",
    "STATES",
    "ChangeMaps",
    "ExplainedRun",
    "PairPictures",
    "Range",
    "RunReport",
    "Spot",
    "change_maps",
    "change_pixels",
    "class_pairs",
    "encoded",
    "find_spot",
    "main_question",
    "order_by_cost",
    "pairs_table",
    "report_html",
    "report_run",
    "save_report",
]
