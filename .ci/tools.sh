# What the gate needs beside the Rust toolchain: found on this machine, or installed once. Debian's
# packages come by apt-get (as root or through sudo); the rest is pinned and goes to .cache/tools.
# To be sourced by bash from the root of the repository.
shopt -s inherit_errexit # a failing $(python_env ...) stops the script
TOOLS="$PWD/.cache/tools"
mkdir -p "$TOOLS/bin"
export PATH="$TOOLS/bin:$PATH"

# debian PACKAGE...: installs Debian packages.
debian() {
  local root=()
  if ! command -v apt-get >/dev/null; then
    echo "missing on this machine: $*" >&2
    return 1
  elif [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "please install as root: apt-get install $*" >&2; return 1; }
    root=(sudo)
  fi
  echo "installing $*" >&2
  "${root[@]}" apt-get update -qq >&2
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

need_curl()   { command -v curl >/dev/null || debian curl ca-certificates; }
need_openssl() { command -v openssl >/dev/null || debian openssl; }
need_node()   { command -v npx >/dev/null || debian nodejs npm; }
# Debian's python3 comes without ensurepip, and a venv made without it has no pip.
need_python() { python3 -c 'import ensurepip, venv' 2>/dev/null || debian python3 python3-venv; }

need_bwrap()  { command -v bwrap >/dev/null || debian bubblewrap; }
need_strace() { command -v strace >/dev/null || debian strace; }
need_systemd() { command -v systemd-analyze >/dev/null || debian systemd; }
# Prometheus and promtool: the machine's, or Debian's package unpacked, which starts no service.
need_prometheus() {
  local made
  if command -v promtool >/dev/null && command -v prometheus >/dev/null; then return; fi
  made=$(mktemp -d "$TOOLS/prometheus.XXXXXX")
  (cd "$made" && { apt-get download -qq prometheus 2>/dev/null \
    || { debian; apt-get download -qq prometheus; }; } && dpkg-deb -x prometheus_*.deb .)
  mv "$made"/usr/bin/prom* "$TOOLS/bin/"
  rm -r "$made"
}

# A virtual environment with pinned packages: python_env NAME PACKAGE...; prints its interpreter.
python_env() {
  local home="$TOOLS/$1"
  shift
  need_python
  if [ ! -x "$home/bin/python" ]; then
    rm -rf "$home" "$home.new"
    python3 -m venv "$home.new" >&2
    mv "$home.new" "$home"
  fi
  "$home/bin/python" -m pip install -q --disable-pip-version-check "$@" >&2
  echo "$home/bin/python"
}

# The Go that compiles go_tool's programs, unless the machine's is at least GO_MIN (Debian 12's is
# 1.19). The Go module proxy serves it; the sums are of files that sum.golang.org vouches for.
GO_MIN=1.25 GO=1.26.8
GO_SHA256_amd64=30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7
GO_SHA256_arm64=02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99
need_go() {
  local have home="$TOOLS/go-$GO" arch sum
  have=$(go env GOVERSION 2>/dev/null | grep -oE '[0-9]+\.[0-9]+' | head -n 1 || true)
  if [ -n "$have" ] && printf '%s\n' "$GO_MIN" "$have" | sort -VC; then return; fi
  if [ ! -x "$home/bin/go" ]; then
    case "$(uname -m)" in
      x86_64) arch=amd64 ;;
      aarch64) arch=arm64 ;;
      *) echo "please install Go $GO_MIN or later" >&2; return 1 ;;
    esac
    sum="GO_SHA256_$arch"
    need_curl
    need_python
    echo "fetching Go $GO" >&2
    rm -rf "$home.new"
    mkdir -p "$home.new"
    curl -fsSL --retry 3 -o "$home.new/go.zip" \
      "https://proxy.golang.org/golang.org/toolchain/@v/v0.0.1-go$GO.linux-$arch.zip"
    echo "${!sum}  $home.new/go.zip" | sha256sum --check --quiet
    python3 -m zipfile -e "$home.new/go.zip" "$home.new"
    chmod -R +x "$home.new"/golang.org/toolchain@*/bin "$home.new"/golang.org/toolchain@*/pkg/tool
    mv "$home.new"/golang.org/toolchain@* "$home"
    rm -r "$home.new"
  fi
  export PATH="$home/bin:$PATH"
}

# go_tool NAME MODULE@VERSION: exactly that version of a Go program, in .cache/tools/bin.
go_tool() {
  local program="$1-${2##*@}" made
  if [ ! -x "$TOOLS/bin/$program" ]; then
    need_go
    made=$(mktemp -d "$TOOLS/go-install.XXXXXX")
    GOBIN="$made" GOFLAGS=-mod=mod GOTOOLCHAIN=local go install "$2"
    mv "$made/$1" "$TOOLS/bin/$program"
    rmdir "$made"
  fi
  ln -sfn "$program" "$TOOLS/bin/$1"
}

# cargo-deny, compiled once for this machine (about five minutes on two cores).
CARGO_DENY=0.20.2
need_cargo_deny() {
  [ "$(cargo-deny --version 2>/dev/null || true)" = "cargo-deny $CARGO_DENY" ] \
    || cargo install --locked --quiet --root "$TOOLS" --version "$CARGO_DENY" cargo-deny
}

# go_source MODULE@VERSION: prints a folder with a Go module's files, as sum.golang.org knows them.
go_source() {
  need_go
  (cd "$TOOLS" && GOMODCACHE="$TOOLS/go-mod" GOFLAGS=-modcacherw GOTOOLCHAIN=local \
    go mod download -json "$1") | sed -n 's/^.*"Dir": "\(.*\)".*$/\1/p'
}
