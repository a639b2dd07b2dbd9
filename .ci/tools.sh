# What the gate needs beside the Rust toolchain, found or installed once under .cache/tools.
TOOLS="$PWD/.cache/tools"
mkdir -p "$TOOLS/bin"
export PATH="$TOOLS/bin:$PATH"

# need_debian COMMAND PACKAGE...: installs PACKAGE unless COMMAND is there.
need_debian() {
  command -v "$1" >/dev/null && return
  shift
  echo "installing $*"
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

need_node()   { need_debian npx nodejs npm; }
need_go()     { need_debian go golang-go; }
need_python() { need_debian python3 python3 python3-venv; }

# A virtual environment with pinned packages: python_env NAME PACKAGE...; prints its interpreter.
python_env() {
  local home="$TOOLS/$1"
  need_python >&2
  shift
  if [ ! -x "$home/bin/python" ]; then python3 -m venv "$home" >&2; fi
  "$home/bin/pip" install -q --disable-pip-version-check "$@" >&2
  echo "$home/bin/python"
}

# go_tool NAME MODULE@VERSION: a Go program under .cache/tools/bin.
go_tool() {
  [ -x "$TOOLS/bin/$1" ] && return
  need_go
  GOBIN="$TOOLS/bin" GOFLAGS=-mod=mod go install "$2"
}

# cargo-deny, compiled once for this machine (about five minutes on two cores).
need_cargo_deny() {
  command -v cargo-deny >/dev/null || cargo install --locked --quiet cargo-deny --version 0.20.2
}
