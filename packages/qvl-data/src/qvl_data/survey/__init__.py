"""The pass over all records before a run: judged by the same rules as in training, in several processes, memory flat."""
