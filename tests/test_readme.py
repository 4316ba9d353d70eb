"""The README's Python, run as one script from its first block to its last: it prints what the README says it prints."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_examples(tmp_path):
    script = tmp_path / "readme.py"
    script.write_text("\n".join(BLOCKS))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = [line[2:] for block in BLOCKS if "print(" in block for line in block.splitlines() if line.startswith("# ")]
    assert len(said) > 12
    assert [line for line in done.stdout.splitlines() if line] == said
