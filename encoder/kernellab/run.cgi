#!/bin/sh
# Runs the posted script and answers with its output and exit status.
f=$(mktemp /tmp/run.XXXXXX)
cat >"$f"
cd /tmp
sh "$f" >"$f.out" 2>&1 </dev/null
code=$?
printf 'Content-Type: text/plain\r\nX-Exit: %d\r\n\r\n' "$code"
cat "$f.out"
rm -f "$f" "$f.out"
