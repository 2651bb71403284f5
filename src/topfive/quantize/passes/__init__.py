"""Published methods that find better int8 parameters after training, from pictures alone.

`recipe` names the passes of a run and their settings, `fit` runs them, `select` tries recipes and picks one.
"""
