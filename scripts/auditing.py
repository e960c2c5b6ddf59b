"""What pip-audit found, told briefly: `python scripts/auditing.py FILE` with its JSON. Part of scripts/audit.

Needs nothing but Python. pip-audit itself counts what it could not look up as harmless; here it is not.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CLEAN, VULNERABLE, UNKNOWN = 0, 1, 3
"""What scripts/audit leaves with; 2 is that of a wrong use of pip-audit."""


def main() -> None:
    """Print the findings of the file that the first argument names, and leave with what they amount to."""
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    found = json.loads(text)["dependencies"] if text else []
    for line in lines(found):
        print(line)
    sys.exit(status(found))


def lines(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Give a line for each known vulnerability, and what is known in all."""
    for package in found:
        for each in package.get("vulns", []):
            mended = " or ".join(each["fix_versions"]) or "no version yet"
            yield f"{package['name']} {package['version']}: {each['id']}, mended in {mended}"
    known = [package for package in found if "skip_reason" not in package]
    harmed = sum(bool(package.get("vulns")) for package in known)
    yield f"{len(known)} of {len(found)} packages looked up, {harmed} of them with known vulnerabilities"
    if len(known) < len(found) or not found:
        yield "The advisories of the others could not be reached: they come over the network, from pypi.org"


def status(found: Sequence[Mapping[str, Any]]) -> int:
    """Return what the findings amount to."""
    if any(package.get("vulns") for package in found):
        return VULNERABLE
    return UNKNOWN if not found or any("skip_reason" in package for package in found) else CLEAN


if __name__ == "__main__":
    main()
