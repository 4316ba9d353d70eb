"""Training, evaluation and prediction with :mod:`segext.models` on folders of images, for ``python -m segext``.

Needs the packages of the extra ``segext[train]``; ``import segext`` needs none of them.
"""
