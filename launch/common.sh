# Sourced by the set-up scripts: how they speak, log long steps and remember what is done.
# shellcheck shell=bash

say() { printf '%s\n' "$*"; }

die() {
    printf 'set-up stopped: %s\n' "$*" >&2
    exit 1
}

# Print a sign of life and the last line of LOG every half minute. `read -t` on a pipe nobody writes to, because a `sleep`
# would outlive the kill and keep the caller's output open.
heartbeat() {
    local log=$1 started=$SECONDS pipe line
    exec {pipe}<> <(:)
    while ! read -r -t "${ALQ_HVD_HEARTBEAT:-30}" -u "$pipe"; do
        line=$(tail -n 1 "$log" 2>/dev/null | cut -c 1-90)
        printf '  ... %d s: %s\n' $((SECONDS - started)) "$line"
    done
}

# logged NAME COMMAND...: run COMMAND with its output in $LOGS/NAME.log; when it fails, show the end of it and stop.
logged() {
    local log=$LOGS/$1.log beat status=0
    shift
    mkdir -p "$LOGS"
    : >"$log"
    heartbeat "$log" &
    beat=$!
    "$@" >"$log" 2>&1 </dev/null || status=$?
    kill "$beat" 2>/dev/null || true
    wait "$beat" 2>/dev/null || true
    if ((status)); then
        tail -n 20 "$log" >&2
        die "the command failed with status $status: $*
the whole log is $log"
    fi
}

# digest TEXT FILE...: print a hash of TEXT and of the files' contents. Names do not matter, a missing file does.
digest() {
    local text=$1
    shift
    { printf '%s\n' "$text"; cat -- "$@"; } | sha256sum | cut -c 1-16
}

# A stamp says with which inputs a step was last finished. It lives inside the virtual environment, so that both vanish together.
stamped() { [[ -f $VENV/.alq-hvd/$1 && $(<"$VENV/.alq-hvd/$1") == "$2" ]]; }

stamp() {
    mkdir -p "$VENV/.alq-hvd"
    printf '%s\n' "$2" >"$VENV/.alq-hvd/$1.part"
    mv "$VENV/.alq-hvd/$1.part" "$VENV/.alq-hvd/$1"
}

unstamp() { rm -f "$VENV/.alq-hvd/$1"; }
