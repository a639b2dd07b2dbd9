"""Does what a Dockerfile says, line by line, in sandboxes of bubblewrap instead of an engine.

A stage is a folder of the files its lines make. The base of the build stage is this machine's
Debian with its Rust toolchain, read-only, at the paths of the official image. The base of the final
stage is less than the real one: the libraries that the binary asks the loader for, and no more.
Uid 0 outside is uid 1000 inside, so ownership is a note of what `--chown` says, not a mode.
An instruction that is not known here is an error, so that every line is exercised.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/release/paternoster"


def context(ignore: Path) -> list[str]:
    """The files that a .dockerignore leaves of what is, or could be, in git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    lines = [line.strip() for line in ignore.read_text().splitlines()]
    patterns = [_pattern(line) for line in lines if line and not line.startswith("#")]

    def ignored(path: str) -> bool:
        parts = path.split("/")
        prefixes = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        return any(pattern.fullmatch(prefix) for pattern in patterns for prefix in prefixes)

    paths = [path for path in listed.split("\0") if path and (ROOT / path).is_file()]
    return [path for path in paths if not ignored(path)]


def _pattern(line: str) -> re.Pattern:
    assert not line.startswith("!") and "[" not in line, f"not understood here: {line}"
    parts = re.split(r"(\*\*/|\*|\?)", line.strip("/"))
    wild = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in parts))


@dataclass
class Stage:
    """What one FROM and the lines after it have made."""

    base: str
    files: Path
    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0"
    owners: dict[str, str] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)
    ports: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"
    health: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def at(self, path: str) -> Path:
        """A path of the image, on this machine."""
        return self.files / path.lstrip("/")

    def sandbox(self, *extra: str, **env: str) -> list[str]:
        """A command line that runs what follows it as a container of this image would."""
        uid, _, gid = self.user.partition(":")
        line = ["bwrap", "--unshare-user", "--uid", uid, "--gid", gid or uid]
        # Process 1 is spared every signal that it does not handle, as in a container.
        line += ["--unshare-pid", "--as-pid-1", "--die-with-parent"]
        line += ["--ro-bind", str(self.files), "/", "--ro-bind", "/proc", "/proc", "--dev", "/dev"]
        line += [*extra, "--clearenv", "--chdir", self.workdir]
        for name, value in {"PATH": "/usr/local/bin:/usr/bin:/bin", **self.env, **env}.items():
            line += ["--setenv", name, value]
        return [*line, "--"]


class Build:
    """The stages of a Dockerfile, made one line after the other."""

    def __init__(self, dockerfile: Path, paths: list[str], scratch: Path, rebuild: bool):
        self.paths, self.scratch, self.rebuild = paths, scratch, rebuild
        self.arguments: dict[str, str] = {}
        self.stages: dict[str, Stage] = {}
        self.stage: Stage | None = None
        self.cargo_calls: list[str] = []
        for name, rest in instructions(dockerfile.read_text()):
            getattr(self, f"_{name.lower()}")(rest)

    def _expand(self, text: str) -> str:
        known = {**self.arguments, **(self.stage.env if self.stage else {})}
        return re.sub(r"\$\{(\w+)\}", lambda found: known[found.group(1)], text)

    def _arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        self.arguments[name] = value

    def _from(self, rest: str) -> None:
        image, _, name = self._expand(rest).partition(" AS ")
        self.stage = Stage(image, self.scratch / (name or "final"))
        self.stage.files.mkdir(parents=True)
        self.stages[name or "final"] = self.stage
        for mounted in ["/proc", "/dev"]:
            self.stage.at(mounted).mkdir()
        if not name:
            for library in libraries(BINARY):
                put(library, self.stage.at(str(library)))

    def _env(self, rest: str) -> None:
        self.stage.env |= pairs(rest)

    def _label(self, rest: str) -> None:
        self.stage.labels |= {key: self._expand(value) for key, value in pairs(rest).items()}

    def _workdir(self, rest: str) -> None:
        self.stage.workdir = rest
        self.stage.at(rest).mkdir(parents=True, exist_ok=True)

    def _copy(self, rest: str) -> None:
        flags, (*sources, to) = options(rest)
        target = Path(self.stage.workdir, to)
        if sources == ["."]:
            for path in self.paths:
                put(ROOT / path, self.stage.at(str(target)) / path)
            return
        assert len(sources) == 1, "one source for each COPY"
        if "from" in flags:
            made = self.stages[flags["from"]].at(sources[0])
            source = made if made.exists() else Path(sources[0])  # else of the base: this machine
        else:
            assert sources[0] in self.paths, f"{sources[0]} is not in the context"
            source = ROOT / sources[0]
        put(source, self.stage.at(str(target)))
        if "chmod" in flags:
            self.stage.at(str(target)).chmod(int(flags["chmod"], 8))
        self.stage.owners[str(target)] = flags.get("chown", "0:0")

    def _run(self, rest: str) -> None:
        mounts, line = [], rest
        while found := re.match(r"--mount=type=cache,target=(\S+)\s+", line):
            cache = self.scratch / "cache" / found.group(1).replace("/", "_")
            cache.mkdir(parents=True, exist_ok=True)
            mounts += ["--bind", str(cache), found.group(1)]
            line = line[found.end() :]
        assert not line.startswith("--"), f"not understood here: {rest}"
        command = ["bwrap", "--bind", str(self.stage.files), "/", *self._toolchain(), *mounts]
        command += ["--dev", "/dev", "--ro-bind", "/proc", "/proc", "--tmpfs", "/tmp"]
        command += ["--chdir", self.stage.workdir, "--", "/bin/sh", "-c", line]
        env = {"PATH": "/usr/local/cargo/bin:/usr/bin:/bin", "CARGO_HOME": "/usr/local/cargo"}
        env |= {"RUSTUP_HOME": str(rustup_home()), **self.stage.env}
        done = subprocess.run(command, env=env, text=True, stderr=subprocess.PIPE)
        assert done.returncode == 0, f"RUN {line}\n{done.stderr}"
        calls = self.stage.at(f"{self.stage.workdir}/cargo-calls")
        self.cargo_calls = calls.read_text().splitlines() if calls.exists() else []

    def _toolchain(self) -> list[str]:
        """The official image's layout, from this machine; cargo itself, or the stand-in for it."""
        cargo = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
        line = []
        for folder in ["/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64"]:
            if Path(folder).is_symlink():
                line += ["--symlink", str(Path(folder).readlink()), folder]
            elif Path(folder).exists():
                line += ["--ro-bind", folder, folder]
        # At its own path, because toolchains may be links to others of them.
        line += ["--tmpfs", "/usr/local", "--ro-bind", str(rustup_home()), str(rustup_home())]
        line += ["--ro-bind", str(cargo / "bin"), "/usr/local/cargo/bin"]
        if not self.rebuild:
            line += ["--ro-bind", str(cargo / "bin"), "/usr/local/real"]
            line += ["--ro-bind", str(stand_in(self.scratch)), "/usr/local/cargo/bin/cargo"]
            line += ["--ro-bind", str(BINARY.resolve()), "/usr/local/paternoster"]
        return line

    def _volume(self, rest: str) -> None:
        self.stage.volumes += json.loads(rest)

    def _user(self, rest: str) -> None:
        self.stage.user = rest

    def _expose(self, rest: str) -> None:
        self.stage.ports += rest.split()

    def _stopsignal(self, rest: str) -> None:
        self.stage.stop_signal = rest

    def _healthcheck(self, rest: str) -> None:
        flags, words = options(rest.partition(" CMD ")[0])
        assert not words and flags.keys() <= {"interval", "timeout", "start-period", "retries"}
        self.stage.health = json.loads(rest.partition(" CMD ")[2])

    def _entrypoint(self, rest: str) -> None:
        self.stage.entrypoint = json.loads(rest)

    def _cmd(self, rest: str) -> None:
        self.stage.command = json.loads(rest)


def rustup_home() -> Path:
    return Path(os.environ.get("RUSTUP_HOME", Path.home() / ".rustup"))


def instructions(text: str) -> list[tuple[str, str]]:
    """The lines of a Dockerfile, comments left out and continued lines joined."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", kept)
    words = [line.strip().split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, rest in words]


def options(rest: str) -> tuple[dict[str, str], list[str]]:
    """`--name=value` words, and the others."""
    words = shlex.split(rest)
    flags = [word[2:].partition("=") for word in words if word.startswith("--")]
    return {k: v for k, _, v in flags}, [word for word in words if not word.startswith("--")]


def pairs(rest: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(rest))


def put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def libraries(binary: Path) -> list[Path]:
    """The files that the loader maps for a program, and the loader."""
    text = subprocess.run(["ldd", binary], check=True, capture_output=True, text=True).stdout
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", text)]


def stand_in(scratch: Path) -> Path:
    """For cargo: writes down how it was called, has the real one check every manifest and the lock
    of the context against each other, and hands out a binary that was compiled before."""
    script = scratch / "cargo"
    script.write_text(
        "#!/bin/sh -e\n"
        'echo "$*" >> cargo-calls\n'
        "CARGO_HOME=/tmp/none /usr/local/real/cargo metadata"
        " --locked --offline --no-deps --format-version 1 >/dev/null\n"
        "mkdir -p target/dist\n"
        "cp /usr/local/paternoster target/dist/paternoster\n"
    )
    script.chmod(0o755)
    return script
