"""`qvl chat`: a conversation in the terminal.

conversation  Conversation: what was said, and the media of the next question
terminal      talk: lines in, answers out as they grow
"""
