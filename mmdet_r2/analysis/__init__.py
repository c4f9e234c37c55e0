"""What to make of a run: logs, results, cost. The commands are in ``tools/analysis_tools``.

Nothing here is needed to train, test or predict.
"""
