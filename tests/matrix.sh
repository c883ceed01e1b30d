#!/usr/bin/env bash
# The suite on every supported Python that this machine has, and the transforms on an old jax.
# One line a cell; logs and virtual environments stay under .cache/matrix. Called by `make test-matrix`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
cells=.cache/matrix
mkdir -p "$cells"
ran=0
failed=0

# Prints the path of Python $1: from PATH, else from pyenv. Each candidate is tried, for pyenv also
# puts on PATH commands of versions that it then refuses to run.
find_python() {
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# cell NAME PYTHON CHECK REQUIREMENT...: installs the requirements, then runs CHECK in the venv.
cell() {
  local name=$1 version=$2 check=$3 python started=$SECONDS
  shift 3
  local venv=$cells/$name log=$cells/$name.log
  if ! python=$(find_python "$version"); then
    echo "skip  $name: no python$version on PATH or under pyenv"
    return
  fi
  ran=$((ran + 1))
  if install "$python" "$venv" "$@" >"$log" 2>&1 && (PATH=$PWD/$venv/bin:$PATH; "$check") >>"$log" 2>&1; then
    echo "ok    $name, $(versions "$venv"): $(tail -n 1 "$log") ($((SECONDS - started)) s)"
  else
    echo "FAIL  $name: $(tail -n 1 "$log") (see $log)"
    failed=1
  fi
}

# Skipped where the same requirements are in the venv already, and setup.cfg has not changed since.
install() {
  local python=$1 venv=$2
  shift 2
  if [[ $venv/.installed -nt setup.cfg && $(cat "$venv/.installed") == "$*" ]]; then
    return
  fi
  "$python" -m venv --clear "$venv" &&
    "$venv/bin/python" -m pip install -q --no-compile --disable-pip-version-check "$@" &&
    echo "$*" >"$venv/.installed"
}

versions() {
  "$1/bin/python" -c "import jax, optax; print(f'jax {jax.__version__}, optax {optax.__version__}')"
}

suite() { python -m pytest -q -n auto --dist worksteal; }
smoke() { PYTHONPATH=$PWD python -W error tests/old_stack_smoke.py; }

for version in 3.11 3.12 3.13; do
  cell "python-$version" "$version" suite -e ".[test]"
done
# optlab itself asks for a newer jax, so that pip would refuse it here: the smoke imports it from the clone.
cell old-jax 3.11 smoke "jax==0.7.*" "jaxlib==0.7.*" "optax==0.2.5"

if ((ran == 0)); then
  echo "FAIL  no supported Python was found"
  failed=1
fi
exit "$failed"
