"""benchmarks/project_presets.py prints the tables that docs/projections.md shows."""

import re


def test_the_page_shows_what_it_prints(root, run_process):
    ran = run_process("benchmarks/project_presets.py")
    assert ran.returncode == 0, ran.stderr
    page = (root / "docs" / "projections.md").read_text()
    for part in ran.stdout.strip().split("\n\n"):
        assert part in page, f"{part}\nis not in docs/projections.md: print it anew"
    table = ran.stdout.split("\n\n")[0].splitlines()
    assert len({line.count("|") for line in table}) == 1
    # Alibaba's figures, as its entry has them: 21.6 minutes on 8 V100, 75.58 % and 93.05 %.
    (row,) = (line for line in table if line.startswith("| alibaba21"))
    assert re.search(r"\| 21\.6 \| ~.*\| 21\.6 \| 21\.6 \| 75\.58 %, 93\.05 % \|", row)
    # The least work comes first.
    work = [float(line.split("|")[2]) for line in table[2:]]
    assert work == sorted(work)
    assert len(work) >= 6
