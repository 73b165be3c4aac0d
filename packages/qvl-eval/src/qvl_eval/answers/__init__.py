"""From questions to answers with one loaded model.

model        LoadedModel, load_model: the recipe's weights with their processor
text_stream  tokens to text, whole characters only; stop strings
job          Job, Piece: a question on its way through the scheduler
driver       Driver: jobs in, pieces of text out, in one thread
"""
