# Sourced by examples/quickstart.sh and tests/run.sh: tools, then a configured and built tree. Needs bash and python3.
#
#   moelora_setup              installs what is missing (Debian, as root), or names the line to run and exits with 2;
#                              fetches jieba's tables
#   moelora_jieba              that alone: bash -c '. cmake/setup.sh; moelora_jieba'
#   moelora_nvrtc              NVIDIA's compiler of device code, for the test device_code (tests/run.sh)
#   moelora_build PRESET TARGET…  configures with a preset of CMakePresets.json and builds targets

# Threads that wait sleep instead of spinning: two programs on two cores would otherwise slow each other a hundredfold.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

MOELORA_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

moelora_say() { printf '\n== %s\n' "$*"; }

# version_at_least FOUND WANTED
moelora_version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

moelora_missing_packages() {
  local package
  local have
  have=$( (c++ -dumpfullversion || g++ -dumpfullversion) 2>/dev/null || true)
  { [ -n "$have" ] && moelora_version_at_least "$have" 12; } || echo g++
  have=$(cmake --version 2>/dev/null | sed -n '1s/[^0-9]*//p' || true)
  { [ -n "$have" ] && moelora_version_at_least "$have" 3.25; } || echo cmake
  command -v ninja >/dev/null || command -v make >/dev/null || echo ninja-build
  # pip serves only to download LibTorch.
  [ -d "$MOELORA_ROOT/build/libtorch" ] || python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
  for package in libsentencepiece-dev nlohmann-json3-dev libspdlog-dev libcli11-dev libgtest-dev libnlopt-dev \
      libpcre2-dev libicu-dev; do
    if command -v dpkg-query >/dev/null; then
      dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || echo "$package"
    fi
  done
}

moelora_required_packages() {
  local missing
  missing=$(moelora_missing_packages | tr '\n' ' ')
  missing=${missing% }
  [ -z "$missing" ] && return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    moelora_say "Installing $missing"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086  # a list of words
    if ! { apt-get update -q && apt-get install -y -q --no-install-recommends $missing; }; then
      echo "These packages could not be installed: $missing" >&2
      exit 2
    fi
  else
    echo "Missing: $missing. Install them, then start again:" >&2
    echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends $missing" >&2
    exit 2
  fi
}

# For training in several processes; all else is built without it.
moelora_optional_packages() {
  if ! command -v dpkg-query >/dev/null || dpkg-query -W -f '${Status}' libgloo-dev 2>/dev/null | grep -q 'install ok'; then
    return 0
  fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    moelora_say "Installing libgloo-dev"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q && apt-get install -y -q --no-install-recommends libgloo-dev && return 0
  fi
  echo "libgloo-dev is missing: the build will have no training in several processes." >&2
}

# The tables of the PyPI package jieba (MIT licence), as the package has them, for Rouge over words. Without them the
# program compares characters and says so.
moelora_jieba() {
  local folder=$MOELORA_ROOT/build/jieba work source
  # A folder with the final name is always complete.
  [ ! -d "$folder" ] || return 0
  moelora_say "Fetching jieba's tables (19 MB) into $folder"
  mkdir -p "$MOELORA_ROOT/build"
  work=$(mktemp -d "$MOELORA_ROOT/build/jieba.XXXXXX")
  source=jieba-0.42.1
  if python3 -m pip download --quiet --disable-pip-version-check --retries 2 --timeout 30 --no-deps --no-binary=:all: \
      --dest "$work" jieba==0.42.1 &&
    tar -xzf "$work/$source.tar.gz" -C "$work" "$source/PKG-INFO" "$source/jieba/dict.txt" \
      "$source/jieba/finalseg/prob_start.py" "$source/jieba/finalseg/prob_trans.py" "$source/jieba/finalseg/prob_emit.py" &&
    mkdir "$work/tables" &&
    mv "$work/$source/PKG-INFO" "$work/$source/jieba/dict.txt" "$work/$source"/jieba/finalseg/prob_*.py "$work/tables" &&
    (cd "$work/tables" && sha256sum --check --quiet) <<'END'
7197c3211ddd98962b036cdf40324d1ea2bfaa12bd028e68faa70111a88e12a8  dict.txt
14c5706ced5cd3b42eb4873d4b88f7f52a7bdf80fbd767bc4423d361e20c5330  prob_start.py
54dfbc252ed71480d4f0cdfdf516ecfbe44efd0f6c3c64b158e7039f2906c91b  prob_trans.py
27d46b1c9efe4dd148fde8be042a21be40e3562d0c7f1273f9de7abae12ebb8d  prob_emit.py
END
  then
    chmod 755 "$work/tables"
    mv "$work/tables" "$folder"
  else
    echo "jieba's tables could not be fetched: Rouge will compare characters instead of words, and say so. Later:" >&2
    echo "  bash -c '. cmake/setup.sh; moelora_jieba'" >&2
  fi
  rm -rf "$work"
}

# NVIDIA's compiler as a library (PyPI; no card, no driver), to check device code for every architecture. Without it the
# test `device_code` takes what else there is, or is skipped.
moelora_nvrtc() {
  local folder=$MOELORA_ROOT/build/nvrtc
  [ ! -d "$folder" ] && [ "$(uname -m)" = x86_64 ] || return 0
  moelora_say "Fetching NVRTC 12.8 (88 MB) into $folder"
  rm -rf "$folder.partial"
  if python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-cache-dir --retries 2 \
      --timeout 60 --no-deps --only-binary=:all: --target "$folder.partial" nvidia-cuda-nvrtc-cu12==12.8.93; then
    mv "$folder.partial" "$folder"
  else
    rm -rf "$folder.partial"
    echo "NVRTC could not be fetched: device code will not be compiled for every architecture." >&2
  fi
}

moelora_setup() {
  command -v python3 >/dev/null || { echo "python3 is missing: install it first." >&2; exit 2; }
  moelora_required_packages
  moelora_optional_packages
  moelora_jieba
}

# As many compilers as there are cores, but each may want 3 GB of memory.
moelora_jobs() {
  local cores memory limit jobs
  cores=$(nproc)
  memory=$(awk '/^MemAvailable:/ {print int($2 / 1024)}' /proc/meminfo 2>/dev/null || echo 4096)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
  if [ "$limit" != max ] && [ $((limit / 1048576)) -lt "$memory" ]; then memory=$((limit / 1048576)); fi
  jobs=$((memory / 3000))
  [ "$jobs" -lt "$cores" ] || jobs=$cores
  [ "$jobs" -ge 1 ] || jobs=1
  echo "$jobs"
}

moelora_build() {
  local preset=$1
  shift
  local options=()
  if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
  if command -v ccache >/dev/null && [ -d "${HOME:-}" ] && [ -n "${HOME:-}" ]; then
    options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
    # Compiled headers are taken for what they were made of; a miss costs no run of the preprocessor.
    export CCACHE_SLOPPINESS=pch_defines,time_macros CCACHE_DEPEND=1
  fi
  [ -z "${MOELORA_WERROR:-}" ] || options+=("-DMOELORA_WERROR=$MOELORA_WERROR")
  moelora_say "Configuring (preset $preset)"
  (cd "$MOELORA_ROOT" && cmake --preset "$preset" "${options[@]}") || exit 2
  local jobs
  jobs=$(moelora_jobs)
  moelora_say "Building with $jobs jobs"
  (cd "$MOELORA_ROOT" && cmake --build --preset "$preset" --parallel "$jobs" --target "$@") || exit 1
}
