"""The report of an evaluation: one HTML page with the scores, what they rest on, and the rows to look at."""

from qvl_eval.report.write_report import write_report as write_report
