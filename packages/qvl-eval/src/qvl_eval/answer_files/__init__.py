"""Files of answers and of scores: those of other tools are read, .xlsx and .csv for people are written."""
