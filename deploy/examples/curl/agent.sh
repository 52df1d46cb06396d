#!/usr/bin/env bash
# An agent whose every action is counted once, however often it is killed, with
# nothing but curl:
#
#   TOKEN=… ./agent.sh mail-1 mail-2
#
# Before it acts, it writes the whole event, its key above all, into a journal on
# disk; it only ever sends what it wrote. The next run finishes what this one
# left, with the same bytes, and Odometer counts the same key once.
set -euo pipefail
shopt -s nullglob

url=${ODOMETER_URL:-http://127.0.0.1:8080}/api/v1/events
journal=${JOURNAL:-journal}
: "${TOKEN:?is not set: put in what \`odometer token --tenant UUID --scope usage:write\` prints}"

# The journal is a file for each event, in the directory of its state. A rename
# is done or not done, never half; sync makes files and names outlive a power cut.
mkdir -p "$journal"/{begun,acted,done,refused}
sync "$journal"
exit_code=0

move() { # mail, from, to
    mv "$journal/$2/$1" "$journal/$3/$1"
    sync "$journal/$3" "$journal/$2"
}

# Make the event and store it, unless this mail is in the journal already.
begin() {
    if [ -n "$(compgen -G "$journal/*/$1")" ]; then
        echo "known email:$1"
        return
    fi
    # The key comes from the work, not from the clock or chance: whoever meets
    # this mail again, in any process, makes the same key.
    printf '{"agent":"inbox","action_type":"email_processed","idempotency_key":"email:%s","occurred_at":"%s"}\n' \
        "$1" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >"$journal/$1"
    sync "$journal/$1"
    mv "$journal/$1" "$journal/begun/$1"
    sync "$journal/begun"
    echo "begun email:$1"
}

# Here the agent works. After a crash it acts again on what was only begun, so it
# hands the key on to what it calls, as that one's idempotency key.
act() {
    sleep "${ACT_SECONDS:-0.2}"
}

# Send an event and print the status. curl repeats the same bytes when the answer
# is 503 (after as long as its Retry-After says), or when there is none.
# The token goes in by standard input: arguments can be read by others.
send() {
    : >"$journal/answer"
    printf 'Authorization: Bearer %s\n' "$TOKEN" |
        curl --silent --show-error --max-time 30 --retry 20 --retry-all-errors --retry-max-time 300 \
            --header @- --header 'Content-Type: application/json' --data-binary "@$journal/acted/$1" \
            --output "$journal/answer" --write-out '%{http_code}' "$url" || true
}

publish() {
    local status
    status=$(send "$1")
    case $status in
    202) # 202 is about the request; what became of the event is in its body
        if grep -q '"invalid":0' "$journal/answer"; then
            move "$1" acted "done" # files older than 90 days can be deleted
            echo "published email:$1"
        else
            refuse "$1"
        fi ;;
    400 | 413 | 415) refuse "$1" ;;
    *) # a token that expired, or nobody there for long: the event stays, run this again
        echo "email:$1 is not stored yet: status $status: $(cat "$journal/answer")" >&2
        return 1 ;;
    esac
}

# The same bytes will never be taken: keep them for whoever mends the agent.
refuse() {
    echo "email:$1 is refused, and kept in $journal/refused: $(cat "$journal/answer")" >&2
    move "$1" acted refused
    exit_code=1
}

# Bring what was begun to its end: a crash leaves nothing but such files.
finish() {
    for file in "$journal"/begun/*; do
        act "${file##*/}"
        move "${file##*/}" begun acted
        echo "acted email:${file##*/}"
    done
    for file in "$journal"/acted/*; do
        publish "${file##*/}"
    done
}

finish
for mail in "$@"; do
    case $mail in # it becomes the name of a file, and part of JSON
    [!A-Za-z0-9]* | *[!A-Za-z0-9._-]* | "") echo "mail \"$mail\": use letters, digits, dot, _ and -" >&2; exit 2 ;;
    esac
    begin "$mail"
    finish
done
exit $exit_code
