#!/usr/bin/env bash
# Build and test the wheel with every Python of the supported range that this machine has, each in an environment of its own.
#
#   tests/matrix.sh                    a few files of tests that need neither PyTorch nor Horovod
#   tests/matrix.sh --torch 2.4.1      also trains with that PyTorch under DDP; downloads it (up to 3 GB)
#   tests/matrix.sh --python 3.12      this Python alone
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
versions=(3.10 3.11 3.12 3.13) torch=''
while (($#)); do
    case $1 in
        --torch) torch=$2; shift 2 ;;
        --python) versions=("$2"); shift 2 ;;
        *) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
    esac
done

# Print a Python of version $1: from PATH, or one that pyenv or uv keeps.
find_python() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python \
        "${XDG_DATA_HOME:-$HOME/.local/share}/uv/python/cpython-$1".*/bin/python; do
        if "$candidate" -c "import sys, venv; sys.exit(sys.version_info[:2] != tuple(map(int, '$1'.split('.'))))" 2>/dev/null
        then echo "$candidate"; return; fi
    done
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git -C "$root" archive --prefix=source/ HEAD | tar -x -C "$work"
# Tests of what needs neither PyTorch nor Horovod; those of the set-up, the examples and the pages need a whole checkout.
mapfile -t tests < <(cd "$work/source" && grep -LE 'torch|horovod|hvd\.|subprocess|jinja2|matplotlib|yaml|report|ROOT|CHECKOUT|examples|benchmarks' \
    tests/unit/test_*.py)
status=0
for version in "${versions[@]}"; do
    python=$(find_python "$version")
    if [[ -z $python ]]; then echo "Python $version: not on this machine, NOT TESTED"; continue; fi
    home=$work/$version
    "$python" -m venv "$home"
    "$home/bin/pip" install -q --disable-pip-version-check "$work/source" pytest pytest-timeout hypothesis ${torch:+"torch==$torch"}
    mkdir "$home/run" && cp -r "$work/source/"{tests,setup.cfg,examples} "$home/run"
    line="Python $version: "
    if (cd "$home/run" && "$home/bin/python" -m pytest -q -p no:cacheprovider "${tests[@]}" >"$home/log" 2>&1); then
        line+=$(tail -n 1 "$home/log")
    else
        line+="FAILED"; status=1; tail -n 40 "$home/log"
    fi
    if [[ -n $torch ]]; then
        if (cd "$home/run" && "$home/bin/python" -m torch.distributed.run --standalone --nproc-per-node=2 \
            examples/ddp_minimal.py >"$home/log" 2>&1); then
            line+="; torch $torch: $(tail -n 1 "$home/log")"
        else
            line+="; torch $torch: FAILED"; status=1; tail -n 40 "$home/log"
        fi
    fi
    echo "$line"
    rm -rf "$home"
done
exit $status
