"""What the README shows of Python is run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_worked_example(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example + "print(f'accuracy {accuracy:.3f}')\n")
    told = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "Best configuration of study tumours" in told
    assert "Confirmed with 5 seeds" in told
    assert float(told.split()[-1]) > 0.9
