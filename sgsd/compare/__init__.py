"""`sgsd compare`: methods side by side, on the same problems, verifier and budget, over several seeds.

entrants.py  what runs: a configuration and a seed each; on the arena every method
contest.py   runs them, one process each, so that memory is its own and a failure ends no other; resumable
child.py     one of them: train, choose a checkpoint on the validation split, measure it on the test split
table.py     what came of it, as rows, Markdown and a page
"""
