#!/bin/sh
# A language server that behaves as STAND_IN says, and writes down its process number in STAND_IN_PROCESS.
#   good     answers
#   late     answers, but a second after it was asked
#   dead     dies of the first question
#   garbage  answers with what is no message
#   deaf     reads nothing more once it is ready
#   mute     never says that it is ready
#   missing  has no version, as rustup's stand-in for a component that is not installed
if [ "$1" = --version ]; then
    [ "$STAND_IN" != missing ] && echo stand-in 1
    exit
fi
echo $$ > "$STAND_IN_PROCESS"

say() {
    printf 'Content-Length: %d\r\n\r\n%s' ${#1} "$1"
}

return_character=$(printf '\r')
while true; do
    length=0
    while IFS= read -r line && line=${line%"$return_character"} && [ -n "$line" ]; do
        length=${line#Content-Length: }
    done
    [ "$length" -gt 0 ] || exit
    message=$(head -c "$length")
    id=$(printf %s "$message" | sed -n 's/.*"id":\([0-9]*\),.*/\1/p')
    case $message in
    *'"method":"initialize"'*)
        say '{"jsonrpc":"2.0","id":0,"result":{"capabilities":{"positionEncoding":"utf-8"}}}'
        ;;
    *'"method":"initialized"'*)
        [ "$STAND_IN" = mute ] && continue
        say '{"jsonrpc":"2.0","id":"own","method":"window/workDoneProgress/create","params":{}}'
        say '{"jsonrpc":"2.0","method":"experimental/serverStatus","params":{"health":"ok","quiescent":true}}'
        [ "$STAND_IN" = deaf ] && sleep 60
        ;;
    *'"method":"textDocument/did'*)
        # What it has nothing to say of.
        case $message in
        *'// unknown'*) unknown=yes ;;
        *) unknown= ;;
        esac
        ;;
    *'"method":"textDocument/'*)
        case $STAND_IN in
        late) sleep 1 ;;
        dead) exit 1 ;;
        garbage) echo 'thread panicked' && continue ;;
        esac
        case $unknown$message in
        yes*) result=null ;;
        *completion*) result='{"items":[{"label":"inferred","kind":2,"detail":"fn(&self) -> u8"}]}' ;;
        *hover*) result='{"contents":{"kind":"markdown","value":"```rust\nlet value: Inferred\n```"}}' ;;
        *) result='{"signatures":[{"label":"fn inferred(a: u8)"}]}' ;;
        esac
        say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":$result}"
        ;;
    esac
done
