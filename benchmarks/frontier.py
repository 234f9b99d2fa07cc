"""Draws docs/frontier.png: accuracy against minutes of the published runs, and of yours.

    python benchmarks/frontier.py [RUN...] [--output FILE]

RUN is a run folder, a log or a DAWNBench entry. The curves and results are those of
benchmarks/published, each with its source; none of them was run here.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

from reports.frontier import draw_frontier, read_results
from reports.reader import read_record

PUBLISHED = Path(__file__).resolve().parent / "published"
PICTURE = PUBLISHED.parent.parent / "docs" / "frontier.png"


@click.command()
@click.argument("runs", nargs=-1, type=Path, metavar="[RUN...]")
@click.option("--output", type=Path, default=PICTURE, help="By default docs/frontier.png.")
def main(runs: tuple[Path, ...], output: Path) -> None:
    """Draws the frontier into a picture; the name of --output ends in .png, .svg or .pdf."""
    records = [read_record(path) for path in sorted(PUBLISHED.glob("*.tsv"))]
    results = read_results(PUBLISHED / "results.yaml")
    draw_frontier(records, results, [read_record(path) for path in runs]).savefig(output, dpi=110)
    click.echo(f"{output}: {len(records)} published curves, {len(runs)} of yours")


if __name__ == "__main__":
    main()
