#!/bin/sh
# Stores the posted bytes under the path that is the query string.
printf 'Content-Type: text/plain\r\n\r\n'
f=$QUERY_STRING
mkdir -p "${f%/*}/" && cat >"$f.part" && chmod 755 "$f.part" && mv "$f.part" "$f" && wc -c <"$f"
printf '\nX-Exit: %d' "$?"
