"""Generates `paternoster.v1` from the contract whenever the package is built, so that no generated
code has to be kept true by hand. `python hatch_build.py` does it in place, for tests."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
PLUGINS = ["mypy", "mypy_grpc"]


def generate() -> None:
    """Writes messages, stubs and their types to src/paternoster/v1."""
    # Inside a source distribution the contract lies beside this file, else in the repository.
    proto = next(p for p in [HERE / "proto", HERE.parents[1] / "proto"] if p.is_dir())
    outputs = ["--python_out", "--grpc_python_out", "--mypy_out=quiet:", "--mypy_grpc_out=quiet:"]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto}"]
    command += [f"{out}{'' if '=' in out else '='}{HERE / 'src'}" for out in outputs]
    scripts = Path(sys.executable).parent
    for plugin in PLUGINS:
        if (found := scripts / f"protoc-gen-{plugin}").exists():
            command.append(f"--plugin=protoc-gen-{plugin}={found}")
    files = sorted((proto / "paternoster/v1").glob("*.proto"))
    subprocess.run([*command, *map(str, files)], check=True)
    (HERE / "src/paternoster/v1/__init__.py").write_text('"""Generated from the contract."""\n')


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """What hatchling calls before it packs a wheel or a source distribution."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        generate()


if __name__ == "__main__":
    generate()
