"""What a run left, for people: pages that stand alone, with no script and nothing from a network.

folder.py   a run's folder: configuration, metrics, rollouts, checkpoints
chosen.py   which rollouts are worth a look
scored.py   their teachers and tokens, scored again by the method's own code
heat.py     tokens as a page shows them
curves.py   metrics of several runs, side by side
figures.py  curves as static SVG in the page's own colours
page.py     templates, content policy, writing
"""
