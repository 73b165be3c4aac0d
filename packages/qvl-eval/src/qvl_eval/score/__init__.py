"""Scoring rules as pure functions of texts: no model, no files, no mindspore."""

# Until evaluate.py sums up through `summary.summarise`.
from qvl_eval.score.exact import Group as Group
from qvl_eval.score.exact import Scored as Scored
from qvl_eval.score.exact import Scores as Scores
from qvl_eval.score.exact import score_row as score_row
from qvl_eval.score.exact import summarise as summarise
