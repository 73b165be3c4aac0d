"""`qvl chat`: a conversation in the terminal.

conversation  Conversation: what was said, and the media of the next question
lines         lines of a terminal or a pipe; several that are one question
terminal      talk: lines in, answers out as they grow
"""
