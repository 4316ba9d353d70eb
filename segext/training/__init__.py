"""Training, evaluation and prediction of :mod:`segext.models` on folders of images: what ``python -m segext`` runs.

Needs the packages of the extra ``segext[train]``; ``import segext`` needs none of them.
"""
