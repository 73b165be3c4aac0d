"""The pass over all records before a run: the rules of training, in several processes, in little memory."""
