"""Scoring rules as pure functions of texts: no model, no files, no mindspore."""

# For scripts.
from qvl_eval.score.judge import extract_choice as extract_choice
from qvl_eval.score.judge import score_row as score_row
from qvl_eval.score.rule_sets import RULE_SETS as RULE_SETS
