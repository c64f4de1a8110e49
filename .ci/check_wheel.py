"""Check an installed wheel: `sentinv` is the only import name, and no tracked module or weight is missing.

Usage: git ls-files '*.py' | python check_wheel.py FOLDER
"""

import sys
from pathlib import Path

site = Path(sys.argv[1])
top = {
    path.name
    for path in site.iterdir()
    if not path.name.endswith(".dist-info") and path.name not in ("bin", "__pycache__")
}
if top != {"sentinv"}:
    sys.exit(
        f"expected only `sentinv` at the top level of the wheel, got {sorted(top)}: see [tool.setuptools] in pyproject.toml"
    )
tracked = [line.strip() for line in sys.stdin if line.strip()]
installed = [name if name.startswith("sentinv/") else f"sentinv/{name}" for name in tracked]
missing = [name for name in installed if not (site / name).is_file()]
if missing or not tracked:
    sys.exit(f"missing from the wheel: {missing or 'everything'}: see [tool.setuptools] in pyproject.toml")
sys.stdout.write(f"wheel: {len(tracked)} modules and weights under the one name sentinv\n")
