# Sourced by the set-up scripts: how they speak, log long steps and remember what is done.
# shellcheck shell=bash

# say LINE...
say() { printf '%s\n' "$@"; }

die() {
    printf 'set-up stopped: %s\n' "$*" >&2
    exit 1
}

BEAT='' # process of the heartbeat, while one beats
PART='' # unfinished directory of a build, while one is under way

at_exit() {
    [[ -z $BEAT ]] || kill "$BEAT" 2>/dev/null || true
    [[ -z $PART ]] || rm -rf "$PART"
}
trap at_exit EXIT

# Print a sign of life from LOG every half minute: the last line with a percentage, or the last line. `read -t` on a pipe
# that nobody writes to, because a `sleep` would outlive the kill and keep the caller's output open.
heartbeat() {
    local log=$1 started=$SECONDS pipe line
    trap - EXIT
    exec {pipe}<> <(:)
    while ! read -r -t "${ALQ_HVD_HEARTBEAT:-30}" -u "$pipe" && kill -0 $$ 2>/dev/null; do
        line=$(grep '^ *\[ *[0-9]*%\]' "$log" | tail -n 1) || true
        [[ -n $line ]] || line=$(tail -n 1 "$log")
        printf '  ... %d s: %s\n' $((SECONDS - started)) "$(cut -c 1-90 <<<"$line" | sed 's/^ *//')"
    done
}

# logged NAME COMMAND...: run COMMAND with its output in $LOGS/NAME.log; when it fails, show the end of it and stop.
logged() {
    local log=$LOGS/$1.log status=0
    shift
    mkdir -p "$LOGS"
    : >"$log"
    heartbeat "$log" &
    BEAT=$!
    "$@" >"$log" 2>&1 </dev/null || status=$?
    kill "$BEAT" 2>/dev/null || true
    wait "$BEAT" 2>/dev/null || true
    BEAT=''
    if ((status)); then
        # A compiler's complaint is far above the end, where pip only says that something failed.
        { grep -i -m 5 '\(error\|fatal\):' "$log" || true; say "..."; tail -n 15 "$log"; } | cut -c 1-200 >&2
        die "this step failed with status $status; the whole log is $log"
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

# installed NAME...: whether .venv has these packages: somebody may have removed what a stamp speaks of.
installed() {
    "$VENV/bin/python" - "$@" 2>/dev/null <<'PYTHON'
import importlib.metadata, sys
for name in sys.argv[1:]:
    importlib.metadata.version(name)
PYTHON
}

unstamp() { rm -f "$VENV/.alq-hvd/$1"; }
