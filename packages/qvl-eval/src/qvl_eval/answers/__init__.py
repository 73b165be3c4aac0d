"""From questions to answers with one loaded model.

opening      open_model: the recipe's model ready to answer, here or in processes of a layout
model        LoadedModel, load_model: the recipe's weights with their processor, in this process
workers      Workers: the processes of a layout; rank: what each of them does
remote_scheduler  RemoteScheduler: their scheduler, as if it were here
text_stream  tokens to text, whole characters only; stop strings
job          Job, Piece: a question on its way through the scheduler
driver       Driver: jobs in, pieces of text out, in one thread
"""
