"""`qvl migrate`: recipes out of the reference stack's files (MindSpeed-MM for Qwen2.5-VL on MindSpore).

json_source, shell_words, shell_script    read the files, with the line of every value; nothing is executed
folder                                    which files there are, and which belong together
ledger                                    what became of each setting: carried over, without effect, without counterpart
sft, answering, parts                     the rules from their settings to recipe keys
recipe_text, report, migration            what is written
"""
