"""What a run left, for people: pages that stand alone, with no script and nothing from a network.

folder.py      a run's folder: configuration, metrics, rollouts, checkpoints
page.py        templates, content policy, writing

explain.py     rollouts token by token, as each teacher saw them
chosen.py      which rollouts are worth a look
scored.py      their teachers and tokens, scored again by the method's own code
heat.py        tokens as a page shows them

report.py      one or several runs in plots and tables
quantities.py  what a log may hold, in words
curves.py      the quantities of several runs, side by side
summary.py     ends, differences, settings, cost, pairs
figures.py     curves as static SVG in the page's own colours
"""
