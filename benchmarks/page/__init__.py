"""The report as a page: one HTML file that needs no other, and a PNG of each drawing in it.

``findings`` puts the results into words, ``charts`` draws, ``sections`` says what stands where; ``template.html`` and
``style.css`` say how it looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from .. import figure
from ..results import Results
from ..targets import Verdict
from . import charts, findings, sections

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write(results: Results, verdicts: Sequence[Verdict], folder: Path) -> list[str]:
    """Writes ``report.html`` and the pictures, and returns the pictures' names."""
    (folder / "report.html").write_text(render(results, verdicts), encoding="utf-8")
    figure.draw(results, folder / "report.png")
    pictures = charts.pictures(results)
    for name, panels in pictures.items():
        charts.write(panels, folder / name)
    return ["report.png", *pictures]


def render(results: Results, verdicts: Sequence[Verdict]) -> str:
    return _TEMPLATES.get_template("template.html").render(
        environment=results.environment,
        command=" ".join(filter(None, ("python -m benchmarks", results.environment.get("options")))),
        one=f"1{findings.TIMES}",  # where stock is as fast
        gains=findings.gains(results),
        costs=findings.costs(results),
        sections=sections.of(results),
        verdicts=verdicts,
        notes=results.notes,
    )
