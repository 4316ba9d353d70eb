"""Everything a GPU can say about segext, in one command: ``make gpu``, or ``python -m benchmarks.gpu``.

The driver (``__main__``) runs each part in a process of its own, so that a crash, a device that is lost or a part that
takes too long ends that part alone. Each part leaves ``<part>.json`` and ``<part>.txt`` in the folder of the report.
"""
